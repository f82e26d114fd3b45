"""How an image is shown to a network at test time, and what the network then says (paper §3.1.3-3.1.5).

Axes: n images of one size, v views, c channels, h w pixels or cells.

A view asks for an image at one or more short sides (`short_sides`), cuts what travels to the network's
device out of each (`cut`, in the loader's process), and turns a batch of that into softmax scores, one
vector a view (`softmax`). The score of an image is their plain mean.

Views on feature maps (§3.1.5) compute the maps of a whole image and of its mirror image once a scale, and
pool every window on them: what a window sees of its surroundings is the image, where a crop sees zeros.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.ops.views import centre_crop, ten_crop, ten_windows
from sppnet.ops.window_pooling import pool_windows
from sppnet.ops.windows import Mapping, map_cells

Cut = UInt8[Tensor, "v 3 h w"]


@runtime_checkable  # the tests check argument types
class View(Protocol):
    """One way to test a network on an image.

    Attributes:
        short_sides: Short sides at which it wants the image, pixels.
        num_views: Score vectors an image.
        is_square: Whether `cut` makes the same shape of every image, so that all of them stack.
    """

    @property
    def short_sides(self) -> tuple[int, ...]: ...  # noqa: D102 - an attribute
    @property
    def num_views(self) -> int: ...  # noqa: D102
    @property
    def is_square(self) -> bool: ...  # noqa: D102

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "v 3 h2 w2"]:
        """Cut out of an image, resized to one of the short sides, what the network gets."""
        ...

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n views classes"]:
        """Softmax scores of every view of n images.

        Args:
            net: In evaluation mode.
            images: For each short side the stacked cuts, `n v 3 h w` on 0..255.
        """
        ...


@final
@dataclass(frozen=True)
class CropView:
    """The central square (Table 3, "1 crop").

    Args:
        short_side: Of the resized image, pixels.
        size: Side of the square, pixels.
    """

    short_side: int
    size: int

    num_views = 1
    is_square = True

    def __post_init__(self) -> None:
        _require_room("crop", self.size, self.short_side)

    @property
    def short_sides(self) -> tuple[int, ...]:
        """The one short side."""
        return (self.short_side,)

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 size size"]:
        """The square."""
        return centre_crop(image, self.size)[None]

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n 1 classes"]:
        """Scores of the squares."""
        return _of_stacks(net, images[0])


@final
@dataclass(frozen=True)
class TenCropView:
    """Centre and four corners of the entire resized image, and their mirror images (§3.1, footnote 1).

    Args:
        short_side: Of the resized image, pixels.
        size: Side of the squares, pixels.
    """

    short_side: int
    size: int

    num_views = 10
    is_square = True

    def __post_init__(self) -> None:
        _require_room("ten_crop", self.size, self.short_side)

    @property
    def short_sides(self) -> tuple[int, ...]:
        """The one short side."""
        return (self.short_side,)

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "10 3 size size"]:
        """The ten squares."""
        return ten_crop(image, self.size)

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n 10 classes"]:
        """Scores of the squares."""
        return _of_stacks(net, images[0])


@final
@dataclass(frozen=True)
class FullView:
    """The whole image, its aspect ratio kept (§3.1.4).

    Args:
        short_side: Of the resized image, pixels.
        flip: Whether the mirror image is a second view.
    """

    short_side: int
    flip: bool

    is_square = False

    @property
    def num_views(self) -> int:
        """One, or two with the mirror image."""
        return 2 if self.flip else 1

    @property
    def short_sides(self) -> tuple[int, ...]:
        """The one short side."""
        return (self.short_side,)

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 h w"]:
        """All of it."""
        return image[None]

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n views classes"]:
        """Scores of the images (and their mirror images)."""
        whole = images[0][:, 0].float()
        maps = _maps_of_both(net, whole) if self.flip else net.maps(whole)[:, None]
        return net.head(net.pool(maps.flatten(0, 1))).softmax(dim=1).unflatten(0, maps.shape[:2])


@final
@dataclass(frozen=True)
class TenMapView:
    """The ten views as windows on the maps of the image and of its mirror image (§3.1.5).

    Args:
        short_side: Of the resized image, pixels.
        size: Side of the windows, pixels.
        mapping: How a window becomes cells (Appendix A).
    """

    short_side: int
    size: int
    mapping: Mapping

    num_views = 10
    is_square = False

    def __post_init__(self) -> None:
        _require_room("ten_map", self.size, self.short_side)

    @property
    def short_sides(self) -> tuple[int, ...]:
        """The one short side."""
        return (self.short_side,)

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 h w"]:
        """All of it."""
        return image[None]

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n 10 classes"]:
        """Scores of the windows, in the order of `ten_crop`."""
        whole = images[0][:, 0].float()
        windows = ten_windows(whole.shape[2], whole.shape[3], self.size)
        pooled = _pool_both(net, _maps_of_both(net, whole), windows, whole.shape[3], self.mapping)
        return net.head(pooled.flatten(0, 1)).softmax(dim=1).unflatten(0, pooled.shape[:2])


@final
@dataclass(frozen=True)
class ManyViews:
    """Windows on a 3 x 3 grid at several scales, with mirror images, and two full images (§3.1.5).

    At every scale windows of the same size stand at the centre, the corners and the middles of the sides;
    where the short side is the window's there are three positions. Six scales, one of them as large as
    the window, make the paper's 96 views.

    Args:
        test_sides: Short sides, pixels.
        size: Side of the windows, pixels.
        full_short_side: Short side of the two views of the full image, the second mirrored; None for none.
        mapping: How a window becomes cells (Appendix A).
    """

    test_sides: Sequence[int]
    size: int
    full_short_side: int | None
    mapping: Mapping

    is_square = False

    def __post_init__(self) -> None:
        if not self.test_sides or len(set(self.test_sides)) != len(self.test_sides):
            raise ConfigError(
                f"view.test_sides={list(self.test_sides)}: must be different short sides in pixels"
            )
        _require_room("many_views", self.size, min(self.test_sides))

    @property
    def short_sides(self) -> tuple[int, ...]:
        """Every short side once."""
        full = () if self.full_short_side is None else (self.full_short_side,)
        return tuple(dict.fromkeys((*self.test_sides, *full)))

    @property
    def num_views(self) -> int:
        """96 or 98 with the paper's six scales."""
        windows = sum(6 if side == self.size else 18 for side in self.test_sides)
        return windows + (0 if self.full_short_side is None else 2)

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 h w"]:
        """All of it."""
        return image[None]

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n views classes"]:
        """Scores of all windows, then of the full image and its mirror image."""
        pooled = torch.cat(list(self._pooled(net, images)), dim=1)
        return net.head(pooled.flatten(0, 1)).softmax(dim=1).unflatten(0, pooled.shape[:2])

    def _pooled(self, net: SppNet, images: Sequence[Tensor]) -> Iterator[Tensor]:
        full: list[Tensor] = []
        for short_side, stack in zip(self.short_sides, images, strict=True):
            whole = stack[:, 0].float()
            maps = _maps_of_both(net, whole)
            if short_side in self.test_sides:
                windows = grid_windows(whole.shape[2], whole.shape[3], self.size)
                yield _pool_both(net, maps, windows, whole.shape[3], self.mapping)
            if short_side == self.full_short_side:
                full.append(net.pool(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]))
        yield from full


class _Grid(NamedTuple):
    """Offsets of windows along both sides, pixels."""

    tops: list[int]
    lefts: list[int]


def grid_windows(height: int, width: int, size: int) -> Int[Tensor, "v 4"]:
    """Windows at the centre, the corners and the middles of the sides (§3.1.5).

    Args:
        height: Of the image, pixels.
        width: Of the image, pixels.
        size: Side of the windows, at most the image's short side.

    Returns:
        Inclusive x1 y1 x2 y2, row by row: nine, or three along the long side of an image as short as
        a window.
    """
    grid = _Grid(*([0, (side - size) // 2, side - size] for side in (height, width)))
    if min(height, width) == size:
        grid = grid._replace(tops=[0]) if height <= width else grid._replace(lefts=[0])
    return torch.tensor(
        [[x, y, x + size - 1, y + size - 1] for y, x in itertools.product(grid.tops, grid.lefts)]
    )


def _maps_of_both(net: SppNet, images: Tensor) -> Float[Tensor, "n 2 c h w"]:
    """Maps of images and of their mirror images, computed together."""
    both = torch.stack([images, images.flip(-1)], dim=1)
    return net.maps(both.flatten(0, 1)).unflatten(0, both.shape[:2])


def _pool_both(
    net: SppNet, maps: Tensor, windows: Tensor, width: int, mapping: Mapping
) -> Float[Tensor, "n views features"]:
    """Pool windows on the maps of images, and mirrored ones on those of their mirror images."""
    mirrored = windows.clone()
    mirrored[:, 0], mirrored[:, 2] = width - 1 - windows[:, 2], width - 1 - windows[:, 0]
    map_size = (maps.shape[-2], maps.shape[-1])
    field = net.backbone.receptive_field
    cells = [
        map_cells(side.float(), field, map_size, mapping).to(maps.device) for side in (windows, mirrored)
    ]
    pooled = [
        pool_windows(one, of_side, net.levels)
        for both in maps
        for one, of_side in zip(both, cells, strict=True)
    ]
    return torch.stack(pooled).unflatten(0, (len(maps), 2)).flatten(1, 2)


def _of_stacks(net: SppNet, stacks: Tensor) -> Float[Tensor, "n v classes"]:
    """Softmax of images that are all of one size, `n v 3 h w`."""
    scores: Tensor = net(stacks.flatten(0, 1).float()).softmax(dim=1)
    return scores.unflatten(0, stacks.shape[:2])


def _require_room(name: str, size: int, short_side: int) -> None:
    if size > short_side:
        raise ConfigError(
            f"view={name}: a view of image.size={size} pixels does not fit into a short side of "
            f"{short_side}; "
            f"raise view.short_side (view.test_sides), or lower image.size"
        )
