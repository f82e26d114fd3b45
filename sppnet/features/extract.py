"""Features of a list of images: found in the cache, or computed into it.

Axes: n images, dim numbers per vector.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from sppnet.data.progress import show_progress
from sppnet.errors import ConfigError, DataError
from sppnet.features.cache import Entry, FeatureCache
from sppnet.features.compute import compute_rows, frozen, vector_lengths
from sppnet.features.identity import extractor_identities, images_digest
from sppnet.features.shards import Features
from sppnet.features.specs import FeatureSpec, level_columns
from sppnet.features.extract_view import ExtractView
from sppnet.models.sppnet import SppNet

__all__ = ["ExtractView", "FeatureCache", "FeatureSpec", "Features", "extract", "level_columns"]

_MAX_THREADS = 8
_SECONDS_BETWEEN_LOOKS = 0.05
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
            spec: cache.entry(identity, network=net.backbone.name, feature=spec.name, dim=lengths[spec])
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
    """Consecutive images, the digest of their bytes, and where their rows are."""

    paths: Sequence[Path]
    images: str
    files: dict[FeatureSpec, Path] = field(default_factory=dict)


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
        listed = {spec: entry.listed_all() for spec, entry in self.entries.items()}

        def look_up_one(start: int) -> _Shard:
            part = paths[start : start + self.cache.shard_images]
            shard = _Shard(part, images_digest(part))
            for spec, entry in self.entries.items():
                candidates = listed[spec].get(shard.images[:32], ())
                if file := entry.find(rows=len(part), candidates=candidates):
                    shard.files[spec] = file
            return shard

        starts = range(0, len(paths), self.cache.shard_images)
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            found = pool.map(look_up_one, starts)  # digests are made outside the interpreter's lock
            shards = list(show_progress(found, label="looking for features", total=len(starts)))
        self.cache.counts.reused += sum(len(shard.files) for shard in shards)
        return shards

    def fill(self, missing: Sequence[_Shard], report: Callable[[int, int], None] | None) -> None:
        """Compute what is missing; what another process computes is waited for, at the end."""
        if not missing:
            return
        num_images = sum(len(shard.paths) for shard in missing)
        num_bytes = {
            spec.name: sum(
                entry.shard_bytes(len(shard.paths)) for shard in missing if spec not in shard.files
            )
            for spec, entry in self.entries.items()
        }
        self.cache.require_space(sum(num_bytes.values()))
        names = ", ".join(name for name, size in num_bytes.items() if size)
        log.info(
            f"{self.net.backbone.name}: {names} of {num_images} images ({self.view.kind} view): "
            f"{sum(num_bytes.values()) / 1e9:.3f} GB will be written to {self.cache.root}"
        )
        for done, _ in enumerate(show_progress(self._work(missing), label="features", total=num_images), 1):
            if report is not None and done % self.cache.shard_images == 0:
                report(done, num_images)

    def _work(self, left: Sequence[_Shard]) -> Iterator[Path]:
        """Yield images as their features are there."""
        while left:
            busy = []
            for shard in left:
                if self._complete(shard):
                    yield from shard.paths
                else:
                    busy.append(shard)
            if len(busy) == len(left):  # others are at all of them
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            left = busy

    def _complete(self, shard: _Shard) -> bool:
        """Compute what no other process is computing of a shard; returns whether everything is there."""
        with contextlib.ExitStack() as claims:
            ours = []
            for spec, entry in self.entries.items():
                if spec in shard.files or not claims.enter_context(entry.claim(shard.images)):
                    continue
                # Another process may have finished it since it was first looked for.
                candidates = entry.listed(shard.images)
                if file := entry.find(rows=len(shard.paths), candidates=candidates):
                    shard.files[spec] = file
                    self.cache.counts.reused += 1
                else:
                    entry.clear(shard.images)
                    ours.append(spec)
            if ours:
                self._compute(shard, ours)
        return len(shard.files) == len(self.entries)

    def _compute(self, shard: _Shard, specs: Sequence[FeatureSpec]) -> None:
        rows = compute_rows(self.net, shard.paths, specs, self.view)
        if images_digest(shard.paths) != shard.images:
            raise DataError(f"{shard.paths[0].parent}: image files changed while they were read; run again")
        for spec in specs:
            data = rows[spec].numpy().astype("<f4", copy=False).tobytes()
            shard.files[spec] = self.entries[spec].write(shard.images, data)
