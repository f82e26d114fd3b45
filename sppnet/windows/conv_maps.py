"""Maps of the last convolution, of whole images at several scales: computed once, kept on disk (paper §4.1).

"We extract the feature maps from the entire image only once": every stage of detection pools its windows from
these. They are rounded to 16 bits, wherever they come from, so that a detector sees the same numbers in an
image that was kept and in a new one; the maxima that windows are pooled to lose nothing more.

Axes: c channels, h w cells.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

import safetensors.torch
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from sppnet.data.images import image_size, read_image, resize_short_side
from sppnet.data.progress import show_progress
from sppnet.errors import ConfigError, DataError, NonFiniteError, ResourceError
from sppnet.features.cache import MAPS, Entry, FeatureCache
from sppnet.features.compute import frozen
from sppnet.features.identity import extractor_identities, images_digest
from sppnet.features.specs import FeatureSpec
from sppnet.features.extract_view import ExtractView
from sppnet.models.sppnet import SppNet
from sppnet.sources import code_of

log = logging.getLogger(__name__)
_MAPS = FeatureSpec("conv5", None)
_NUM_REMEMBERED = 32  # maps in memory: of some images at five scales, 16 MB an image
_SECONDS_BETWEEN_LOOKS = 0.05
_OWN_CODE = code_of([__name__])  # read when this was loaded, as that of the net is
_LARGEST = torch.finfo(torch.float16).max


@final
class ConvMaps:
    """Maps of a list of images.

    May be asked by several threads at once.

    Args:
        net: Frozen: it is put into evaluation mode and left there.
        paths: Image files, read as stored (annotated boxes refer to that orientation).
        is_mirrored: Whether images are mirrored, left to right, first.
        cache: Where maps are kept; None computes them whenever they are asked for.
        max_pixels: Larger files are refused.
        upright: Whether EXIF orientation is applied, for pictures without annotations.
    """

    def __init__(
        self,
        net: SppNet,
        paths: Sequence[Path],
        *,
        is_mirrored: bool,
        cache: FeatureCache | None,
        max_pixels: int,
        upright: bool = False,
    ) -> None:
        self.net = net.eval()
        self.paths = paths
        self.is_mirrored = is_mirrored
        self.max_pixels = max_pixels
        self.upright = upright
        self._cache = cache
        self._entries: dict[int, tuple[Entry, dict[str, list[Path]]]] = {}
        self._digests: dict[int, str] = {}
        self._recent: dict[tuple[int, int], Tensor] = {}
        self._lock = threading.Lock()

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of an image as stored, pixels."""
        return image_size(self.paths[index], upright=self.upright, max_pixels=self.max_pixels)

    def at(self, index: int, scale: int) -> Float[Tensor, "c h w"]:
        """Maps of an image whose short side is `scale` pixels; channels come last in memory.

        Raises:
            BadImageError: The file cannot be used.
            ConfigError: The scale is too small for the net.
            NonFiniteError: A map is NaN, infinite or beyond 16 bits.
            ResourceError: The cache cannot be written.
        """
        maps = self._remembered(index, scale) if self._cache is None else self._kept(index, scale)
        return maps.float().permute(2, 0, 1)

    def _remembered(self, index: int, scale: int) -> Float16[Tensor, "h w c"]:
        """Maps of the images asked for last: box regression asks for them once more."""
        with self._lock:
            maps = self._recent.get((index, scale))
        if maps is None:
            maps = self._computed(index, scale)
            with self._lock:
                self._recent[index, scale] = maps
                while len(self._recent) > _NUM_REMEMBERED:
                    self._recent.pop(next(iter(self._recent)))
        return maps

    def fill(self, scale: int, *, workers: int, report: Callable[[int, int], None] | None = None) -> None:
        """Make sure that the cache has every image's maps.

        Args:
            scale: Short side, pixels.
            workers: Images at a time.
            report: Told after every image how many are done, and of how many; may raise to stop here.

        Raises:
            ResourceError: The disk has not enough room.
            ...: As `at`.
        """
        assert self._cache is not None, "only a cache can be filled"
        self._require_space(scale)
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._kept, index, scale) for index in range(len(self.paths))]
            try:
                done = show_progress((f.result() for f in futures), label="maps", total=len(futures))
                for count, _ in enumerate(done, 1):
                    if report is not None:
                        report(count, len(futures))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _require_space(self, scale: int) -> None:
        assert self._cache is not None
        entry, listed = self._entry(scale)
        missing = [index for index in range(len(self.paths)) if not listed.get(self._digest(index)[:32])]
        cells = 0
        for index in missing:
            width, height = self.size(index)
            cells += round(width * height * (scale / min(width, height) / self._stride) ** 2)
        num_bytes = 2 * cells * entry.dim
        self._cache.require_space(num_bytes)
        if missing:
            log.info(
                f"{self.net.backbone.name}: maps of {len(missing)} images at {scale} pixels: "
                f"about {num_bytes / 1e9:.2f} GB will be written to {self._cache.root}"
            )

    @property
    def _stride(self) -> int:
        return self.net.backbone.receptive_field.stride

    def _kept(self, index: int, scale: int) -> Float16[Tensor, "h w c"]:
        entry, listed = self._entry(scale)
        images = self._digest(index)
        if file := entry.find(rows=None, candidates=listed.get(images[:32], ())):
            return safetensors.torch.load_file(file)["maps"]
        while True:
            with entry.claim(images) as is_ours:
                if is_ours:
                    if file := entry.find(rows=None, candidates=entry.listed(images)):
                        entry.counts.reused += 1
                        maps = safetensors.torch.load_file(file)["maps"]
                    else:
                        entry.clear(images)
                        maps = self._computed(index, scale)
                        if images_digest([self.paths[index]]) != images:
                            raise DataError(f"{self.paths[index]}: changed while it was read; run again")
                        file = entry.write(images, safetensors.torch.save({"maps": maps}))
                    listed[images[:32]] = [file]
                    return maps
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _computed(self, index: int, scale: int) -> Float16[Tensor, "h w c"]:
        path, net = self.paths[index], self.net
        image = read_image(path, upright=self.upright, max_pixels=self.max_pixels)
        pixels = resize_short_side(image, scale)
        if self.is_mirrored:
            pixels = pixels.flip(2)
        with frozen(net):
            try:
                maps = net.maps(pixels[None].to(self._device).float())[0].cpu()
            except ValueError as error:
                raise ConfigError(
                    f"windows.scales: {scale} pixels are too few for {net.backbone.name} with the pyramid "
                    f"{list(net.levels)}, which needs {net.min_short_side} or more"
                ) from error
            except MemoryError as error:
                raise ResourceError(f"{path} at {scale} pixels: out of memory; drop that scale") from error
        if not bool((maps.abs() <= _LARGEST).all()):  # false for NaN, too
            raise NonFiniteError(
                f"{path} at {scale} pixels: activations of {net.backbone.name} are NaN, infinite or beyond "
                f"{_LARGEST:.0f}; check the weights, the input mean and this image"
            )
        return maps.half().permute(1, 2, 0).contiguous()

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    def _digest(self, index: int) -> str:
        if index not in self._digests:
            self._digests[index] = images_digest([self.paths[index]])
        return self._digests[index]

    def _entry(self, scale: int) -> tuple[Entry, dict[str, list[Path]]]:
        """The shards of one scale, and a list of its files, read once."""
        assert self._cache is not None
        with self._lock:
            if scale not in self._entries:
                view = ExtractView(
                    kind="full",
                    short_side=scale,
                    crop=scale,
                    upright=self.upright,
                    max_pixels=self.max_pixels,
                )
                (identity,) = extractor_identities(self.net, [_MAPS], view).values()
                entry = self._cache.entry(
                    {**identity, "dtype": "float16", "is_mirrored": self.is_mirrored, "maps": _OWN_CODE},
                    network=self.net.backbone.name,
                    feature="maps, mirrored" if self.is_mirrored else "maps",
                    dim=self.net.backbone.out_channels,
                    suffix=MAPS,
                )
                self._entries[scale] = entry, entry.listed_all()
            return self._entries[scale]
