"""Features of a list of images: found in the cache, or computed into it.

Axes: n images, dim numbers per vector.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sppnet.errors import ConfigError
from sppnet.features.compute import compute_rows, frozen, vector_lengths
from sppnet.features.extract_view import ExtractView
from sppnet.features.identity import extractor_identities
from sppnet.features.shards import Features
from sppnet.features.specs import FeatureSpec
from sppnet.models.sppnet import SppNet
from sppnet.progress_bar import map_in_threads, show_progress
from sppnet.store.entry import Entry, Images, obtain, share_work
from sppnet.store.feature_cache import FeatureCache

log = logging.getLogger(__name__)


def extract(
    net: SppNet,
    paths: Sequence[Path],
    specs: Sequence[FeatureSpec],
    view: ExtractView,
    *,
    cache: FeatureCache,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, Features]:
    """Compute features of images, or find them; all layers in one pass.

    Shards are of consecutive images: give a data set whole and in a fixed order and select rows
    afterwards, so that every split of it shares them. Rows do not depend on what was already there.
    The net runs on the device it is on, without dropout or flips, in float32.

    Args:
        net: Its mode is as before afterwards.
        paths: Image files.
        specs: Which features; no two alike.
        view: How images are read.
        cache: Where features are kept. Its counts tell what was computed.
        report: Told after every shard how many images are done, and of how many; may raise to stop here.

    Returns:
        From the name of each spec to the vectors, in the order of `paths`.

    Raises:
        ConfigError: No such layer, or one that makes no vectors of one length; images too small.
        DataError: A file cannot be used, or changed while it was read.
        NonFiniteError: A vector is NaN or infinite; names image and layer.
        ResourceError: The disk has not enough room, or cannot be written.
    """
    if len(set(specs)) < len(specs):
        raise ConfigError(f"features {', '.join(spec.name for spec in specs)}: two are alike; drop one")
    with frozen(net):
        lengths = vector_lengths(net, specs, view)
        entries = {
            spec: cache.entry(identity, source=net.backbone.name, kind=spec.name, dim=lengths[spec])
            for spec, identity in extractor_identities(net, specs, view).items()
        }
        job = _Job(net, view, cache, entries)
        shards = job.look_up(paths)
        job.fill([shard for shard in shards if len(shard.files) < len(specs)], report)
    return {
        spec.name: Features(
            paths=[shard.files[spec] for shard in shards],
            num_rows=len(paths),
            shard_rows=cache.shard_images,
            row_length=entry.dim,
            columns=slice(0, entry.dim),
            hold=entry.hold,
        )
        for spec, entry in entries.items()
    }


@dataclass(frozen=True)
class _Shard:
    """Consecutive images, and where their rows are."""

    images: Images
    files: dict[FeatureSpec, Path]


@final
@dataclass(frozen=True)
class _Job:
    """One call of `extract`."""

    net: SppNet
    view: ExtractView
    cache: FeatureCache
    entries: dict[FeatureSpec, Entry]

    def look_up(self, paths: Sequence[Path]) -> list[_Shard]:
        """Digest all images, and every shard that there is of them."""

        def look_up_one(start: int) -> _Shard:
            images = Images.of(paths[start : start + self.cache.shard_images])
            files = {spec: file for spec, entry in self.entries.items() if (file := entry.find(images))}
            return _Shard(images, files)

        starts = range(0, len(paths), self.cache.shard_images)
        shards = map_in_threads(look_up_one, starts, label="looking for features")
        self.cache.counts.reused += sum(len(shard.files) for shard in shards)
        return shards

    def fill(self, missing: Sequence[_Shard], report: Callable[[int, int], None] | None) -> None:
        """Compute what is missing; what another process computes is waited for, at the end."""
        if not missing:
            return
        num_images = sum(len(shard.images.paths) for shard in missing)
        num_bytes = {
            spec.name: sum(
                entry.shard_bytes(len(shard.images.paths)) for shard in missing if spec not in shard.files
            )
            for spec, entry in self.entries.items()
        }
        self.cache.require_space(sum(num_bytes.values()))
        names = ", ".join(name for name, size in num_bytes.items() if size)
        log.info(
            f"{self.net.backbone.name}: {names} of {num_images} images ({self.view.kind} view): "
            f"{sum(num_bytes.values()) / 1e9:.3f} GB will be written to {self.cache.root}"
        )
        images = (path for shard in share_work(missing, self._complete) for path in shard.images.paths)
        for _ in show_progress(images, label="features", total=num_images, report=report):
            pass

    def _complete(self, shard: _Shard) -> _Shard | None:
        """Compute what no other process is computing of a shard; None if that is not everything."""

        def compute(specs: list[FeatureSpec]) -> dict[FeatureSpec, bytes]:
            rows = compute_rows(self.net, shard.images.paths, specs, self.view)
            return {spec: rows[spec].numpy().astype("<f4", copy=False).tobytes() for spec in specs}

        wanted = {spec: entry for spec, entry in self.entries.items() if spec not in shard.files}
        shard.files.update(obtain(wanted, shard.images, compute))
        return shard if len(shard.files) == len(self.entries) else None
