"""Maps of the last convolution, of whole images at several scales: computed once, kept on disk (paper §4.1).

"We extract the feature maps from the entire image only once": every stage of detection pools its windows from
these. They are rounded to 16 bits, wherever they come from, so that a detector sees the same numbers in an
image that was kept and in a new one; the maxima that windows are pooled to lose nothing more.

Axes: c channels, h w cells.
"""

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

import safetensors.torch
import torch
from jaxtyping import Float, Float16
from PIL import Image
from torch import Tensor

from sppnet.data.images import image_size, read_image, resize_short_side
from sppnet.errors import ConfigError, NonFiniteError, ResourceError
from sppnet.features.compute import frozen
from sppnet.features.extract_view import ExtractView
from sppnet.features.identity import extractor_identities
from sppnet.features.specs import FeatureSpec
from sppnet.models.sppnet import SppNet
from sppnet.progress_bar import show_progress
from sppnet.sources import code_of
from sppnet.store.entry import MAPS, Entry, Images
from sppnet.store.feature_cache import FeatureCache
from sppnet.windows.stopwatch import Stopwatch, timed

log = logging.getLogger(__name__)
_MAPS = FeatureSpec("conv5", None)
_NUM_REMEMBERED = 32  # maps in memory: of some images at five scales, 16 MB an image
_OWN_CODE = code_of([__name__])  # read when this was loaded, as that of the net is
_LARGEST = torch.finfo(torch.float16).max


def read_maps(file: Path) -> Float16[Tensor, "h w c"]:
    """Read the maps of one image, which are mapped into memory."""
    maps: Tensor = safetensors.torch.load_file(file)["maps"]
    return maps


def maps_as_file(maps: Float[Tensor, "c h w"], what: str, whose: str) -> bytes:
    """What `read_maps` reads.

    Args:
        maps: Of one image.
        what: What a message calls the image ...
        whose: ... and the trunk.

    Raises:
        NonFiniteError: A map is NaN, infinite or beyond 16 bits.
    """
    return safetensors.torch.save({"maps": _rounded(maps, what, whose)})


def entry_of_pixels(net: SppNet, cache: FeatureCache) -> Entry:
    """The shards of a trunk's maps of images that are found by their normalised pixels."""
    view = ExtractView(kind="full", short_side=1, crop=1, upright=True, max_pixels=1)  # is left out again
    (identity,) = extractor_identities(net, [_MAPS], view).values()
    return cache.entry(
        {**identity, "view": "pixels", "dtype": "float16", "maps": _OWN_CODE},
        source=net.backbone.name,
        kind="maps of views",
        dim=net.backbone.out_channels,
        suffix=MAPS,
    )


def _rounded(maps: Float[Tensor, "c h w"], what: str, whose: str) -> Float16[Tensor, "h w c"]:
    if not bool((maps.abs() <= _LARGEST).all()):  # false for NaN, too
        raise NonFiniteError(
            f"{what}: activations of {whose} are NaN, infinite or beyond {_LARGEST:.0f}; check the weights, "
            f"the input mean and this image"
        )
    return maps.half().permute(1, 2, 0).contiguous()


@final
class ConvMaps:
    """Maps of image files.

    May be asked by several threads at once.

    Args:
        net: Frozen: it is put into evaluation mode and left there.
        is_mirrored: Whether images are mirrored, left to right, first.
        cache: Where maps are kept; None computes them whenever they are asked for.
        max_pixels: Larger files are refused.
        upright: Whether EXIF orientation is applied, for pictures without annotations, whose boxes refer to
            the file as stored.
    """

    def __init__(
        self,
        net: SppNet,
        *,
        is_mirrored: bool,
        cache: FeatureCache | None,
        max_pixels: int,
        upright: bool = False,
    ) -> None:
        self.net = net.eval()
        self.is_mirrored = is_mirrored
        self.max_pixels = max_pixels
        self.upright = upright
        self._cache = cache
        self._entries: dict[int, Entry] = {}
        self._known: dict[Path, Images] = {}  # of images whose maps are kept
        self._recent: dict[tuple[Path, int], Tensor] = {}  # otherwise
        self._lock = threading.Lock()

    def size(self, path: Path) -> tuple[int, int]:
        """Width and height of an image, pixels."""
        return image_size(path, upright=self.upright, max_pixels=self.max_pixels)

    def at(
        self, path: Path, scales: Sequence[int], *, watch: Stopwatch | None = None
    ) -> list[Float[Tensor, "c h w"]]:
        """Maps of an image whose short side is `scales` pixels, in turn; channels come last in memory.

        Args:
            path: Of the image.
            scales: Short sides.
            watch: Is told how long reading, resizing and the convolutions take; all is computed then.

        Raises:
            BadImageError: The file cannot be used.
            ConfigError: A scale is too small for the net.
            NonFiniteError: A map is NaN, infinite or beyond 16 bits.
            ResourceError: The cache cannot be written.
        """

        @functools.cache  # read once for all scales, if at all
        def image() -> Image.Image:
            with timed(watch, "decode"):
                return read_image(path, upright=self.upright, max_pixels=self.max_pixels)

        maps = []
        for scale in scales:

            def compute(scale: int = scale) -> Float16[Tensor, "h w c"]:
                return self._computed(path, image(), scale, watch)

            if watch is not None:
                found = compute()
            else:
                get = self._remembered if self._cache is None else self._kept
                found = get(path, scale, compute)
            with timed(watch, "conv"):
                maps.append(found.float().permute(2, 0, 1))
        return maps

    def _remembered(
        self, path: Path, scale: int, compute: Callable[[], Float16[Tensor, "h w c"]]
    ) -> Float16[Tensor, "h w c"]:
        """Maps of the images asked for last: box regression asks for them once more."""
        with self._lock:
            maps = self._recent.get((path, scale))
        if maps is None:
            maps = compute()
            with self._lock:
                self._recent[path, scale] = maps
                while len(self._recent) > _NUM_REMEMBERED:
                    self._recent.pop(next(iter(self._recent)))
        return maps

    def _kept(
        self, path: Path, scale: int, compute: Callable[[], Float16[Tensor, "h w c"]]
    ) -> Float16[Tensor, "h w c"]:
        def written() -> bytes:
            return safetensors.torch.save({"maps": compute()})

        return read_maps(self._entry(scale).get(self._images(path), written))

    def fill(
        self,
        paths: Sequence[Path],
        scale: int,
        *,
        workers: int,
        report: Callable[[int, int], None] | None = None,
    ) -> list[Path]:
        """Make sure that the cache has every image's maps.

        Args:
            paths: Of the images.
            scale: Short side, pixels.
            workers: Images at a time.
            report: Told after every image how many are done, and of how many; may raise to stop here.

        Returns:
            The file of every image, whole when it was looked at; `read_maps` reads it.

        Raises:
            ResourceError: The disk has not enough room.
            ...: As `at`.
        """
        assert self._cache is not None, "only a cache can be filled"
        self._require_space(paths, scale)
        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(lambda path: self._file(path, scale), paths)
            try:
                return list(show_progress(done, label="maps", total=len(paths), report=report))
            finally:
                pool.shutdown(cancel_futures=True)

    def _file(self, path: Path, scale: int) -> Path:
        def written() -> bytes:
            image = read_image(path, upright=self.upright, max_pixels=self.max_pixels)
            return safetensors.torch.save({"maps": self._computed(path, image, scale, None)})

        return self._entry(scale).get(self._images(path), written)

    def _require_space(self, paths: Sequence[Path], scale: int) -> None:
        assert self._cache is not None
        entry = self._entry(scale)
        missing = [path for path in paths if not entry.listed(self._images(path))]
        cells, stride = 0, self.net.backbone.stride
        for path in missing:
            width, height = self.size(path)
            cells += round(width * height * (scale / min(width, height) / stride) ** 2)
        num_bytes = 2 * cells * entry.dim
        self._cache.require_space(num_bytes)
        if missing:
            log.info(
                f"{self.net.backbone.name}: maps of {len(missing)} images at {scale} pixels: "
                f"about {num_bytes / 1e9:.2f} GB will be written to {self._cache.root}"
            )

    def _computed(
        self, path: Path, image: Image.Image, scale: int, watch: Stopwatch | None
    ) -> Float16[Tensor, "h w c"]:
        net = self.net
        with timed(watch, "prepare"):
            pixels = resize_short_side(image, scale)
            pixels = (pixels.flip(2) if self.is_mirrored else pixels)[None].to(net.device)
        with frozen(net), timed(watch, "conv"):
            try:
                maps = net.maps(pixels.float())[0].cpu()
            except ValueError as error:
                raise ConfigError(
                    f"windows.scales: {scale} pixels are too few for {net.backbone.name} with the pyramid "
                    f"{list(net.levels)}, which needs {net.min_short_side} or more"
                ) from error
            except MemoryError as error:
                raise ResourceError(f"{path} at {scale} pixels: out of memory; drop that scale") from error
        return _rounded(maps, f"{path} at {scale} pixels", net.backbone.name)

    def _images(self, path: Path) -> Images:
        if path not in self._known:
            self._known[path] = Images.of([path])
        return self._known[path]

    def _entry(self, scale: int) -> Entry:
        """The shards of one scale."""
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
                self._entries[scale] = self._cache.entry(
                    {**identity, "dtype": "float16", "is_mirrored": self.is_mirrored, "maps": _OWN_CODE},
                    source=self.net.backbone.name,
                    kind="maps, mirrored" if self.is_mirrored else "maps",
                    dim=self.net.backbone.out_channels,
                    suffix=MAPS,
                )
            return self._entries[scale]
