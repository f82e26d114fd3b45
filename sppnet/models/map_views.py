"""Views taken as windows on the feature maps of whole images (paper §3.1.5).

Axes: n images of one size, v views, c channels, h w pixels or cells.

The maps of a whole image and of its mirror image are computed once a scale, and every window is pooled on
them: what a window sees of its surroundings is the image, where a crop sees zeros.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.models.views import OneSideView, require_room
from sppnet.ops.boxes import flip_boxes
from sppnet.ops.crops import ten_windows
from sppnet.ops.window_pooling import pool_windows
from sppnet.ops.windows import CellMapping, map_cells


@final
@dataclass(frozen=True)
class TenMapView(OneSideView):
    """The ten views as windows on the maps of the image and of its mirror image (§3.1.5).

    Args:
        mapping: How a window becomes cells (Appendix A).
    """

    mapping: CellMapping

    name, num_views, is_square = "ten_map", 10, False

    def cut(self, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 h w"]:
        """All of it."""
        return image[None]

    def softmax(self, net: SppNet, images: Sequence[Tensor]) -> Float[Tensor, "n 10 classes"]:
        """Scores of the windows, in the order of `ten_crop`."""
        whole = images[0][:, 0].float()
        windows = ten_windows(whole.shape[2], whole.shape[3], self.size)
        pooled = _pool_both(net, maps_of_both(net, whole), windows, whole.shape[3], self.mapping)
        return _softmax_of(net, pooled)


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
        mapping: How a window becomes cells (Appendix A); or "restricted", Overfeat's windows: of as many
            cells as the map of a window-sized image has, "those where the pooled features match the desired
            dimensionality", here on the same grid.
    """

    test_sides: Sequence[int]
    size: int
    full_short_side: int | None
    mapping: CellMapping | Literal["restricted"]

    is_square = False

    def __post_init__(self) -> None:
        if not self.test_sides or len(set(self.test_sides)) != len(self.test_sides):
            raise ConfigError(
                f"view.test_sides={list(self.test_sides)}: must be different short sides in pixels"
            )
        require_room("many_views", self.size, min(self.test_sides))

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
        return _softmax_of(net, pooled)

    def _pooled(self, net: SppNet, images: Sequence[Tensor]) -> Iterator[Tensor]:
        full: list[Tensor] = []
        for short_side, stack in zip(self.short_sides, images, strict=True):
            whole = stack[:, 0].float()
            maps = maps_of_both(net, whole)
            if short_side in self.test_sides:
                windows = grid_windows(whole.shape[2], whole.shape[3], self.size)
                if self.mapping == "restricted":
                    yield _pool_cells(net, maps, _restricted(net, maps, windows, whole, self.size))
                else:
                    yield _pool_both(net, maps, windows, whole.shape[3], self.mapping)
            if short_side == self.full_short_side:
                full.append(net.pool(maps.flatten(0, 1)).reshape(len(maps), 2, -1))
        yield from full


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
    tops, lefts = ([0, (side - size) // 2, side - size] for side in (height, width))
    if size == height <= width:
        tops = [0]
    elif size == width:
        lefts = [0]
    return torch.tensor([[x, y, x + size - 1, y + size - 1] for y in tops for x in lefts])


def _pool_both(
    net: SppNet, maps: Tensor, windows: Tensor, width: int, mapping: CellMapping
) -> Float[Tensor, "n views features"]:
    """Pool windows on the maps of images, and mirrored ones on those of their mirror images."""
    map_size = (maps.shape[-2], maps.shape[-1])
    field = net.backbone.receptive_field
    sides = windows.float(), flip_boxes(windows.float(), width)
    return _pool_cells(net, maps, [map_cells(side, field, map_size, mapping) for side in sides])


def _pool_cells(net: SppNet, maps: Tensor, cells: Sequence[Tensor]) -> Float[Tensor, "n views features"]:
    """Pool cells of the maps of images, and others of those of their mirror images."""
    pooled = [
        pool_windows(one, of_side.to(maps.device), net.levels)
        for both in maps
        for one, of_side in zip(both, cells, strict=True)
    ]
    return torch.stack(pooled).reshape(len(maps), 2 * len(cells[0]), -1)


def _restricted(
    net: SppNet, maps: Tensor, windows: Int[Tensor, "v 4"], images: Tensor, size: int
) -> list[Int[Tensor, "v 4"]]:
    """Cells of windows that are as large as the map of a `size` x `size` image, of both maps."""
    side = net.maps(images.new_zeros(1, 3, size, size)).shape[-1]
    room = torch.tensor([images.shape[3] - size, images.shape[2] - size])
    steps = torch.tensor([maps.shape[-1] - side, maps.shape[-2] - side])
    first = (2 * windows[:, :2] * steps + room) // (2 * room).clamp(min=1)  # the nearest cell
    cells = torch.cat([first, first + side - 1], dim=1)
    return [cells, flip_boxes(cells.float(), maps.shape[-1]).long()]


def maps_of_both(net: SppNet, images: Tensor) -> Float[Tensor, "n 2 c h w"]:
    """Maps of images and of their mirror images, computed together."""
    both = torch.stack([images, images.flip(-1)], dim=1)
    maps = net.maps(both.flatten(0, 1))
    return maps.reshape(*both.shape[:2], *maps.shape[1:])


def _softmax_of(net: SppNet, pooled: Float[Tensor, "n v features"]) -> Float[Tensor, "n v classes"]:
    """Softmax scores of pooled views."""
    scores: Tensor = net.head(pooled.flatten(0, 1)).softmax(dim=1)
    return scores.reshape(*pooled.shape[:2], -1)
