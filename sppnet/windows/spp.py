"""Vectors of windows by spatial pyramid pooling: the convolutions run once an image (paper §4.1).

Axes: n windows, d numbers a vector, p numbers of the pooled vector.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.ops.window_pooling import Order, pool_windows, unique_cells
from sppnet.ops.windows import CellMapping, ScaleTarget, choose_scale, map_cells, scale_windows
from sppnet.windows.conv_maps import ConvMaps
from sppnet.windows.source import FcLayers, Places, Rows, Scales, Windows, WindowSource
from sppnet.windows.stopwatch import Stopwatch, timed


@final
class SppWindows(WindowSource):
    """Pools windows from the maps of whole images, and takes them through the fc layers.

    Windows that cover the same cells pass the fc layers once.

    Args:
        maps: Of the images.
        net: Has the pyramid and the fc layers; its convolutions are those that made the maps.
        layer: "pool", or "fc6" or "fc7" of the net, dropout off.
        scales: Short sides among which every window's is chosen.
        mapping: From pixels to cells (`sppnet.ops.windows.map_cells`).
        scale_target: How a window's scale is chosen (`sppnet.ops.windows.choose_scale`), or "all": none is,
            and what is pooled at all scales is pooled once more, channel by channel, bin by bin (§4.1) ...
        side: ... for so many pixels a side: those of the regions that the net was trained on.
        order: Of the numbers in a vector of layer "pool" (`sppnet.pool_windows`): "pyramid" for fc layers as
            they were trained, "bins_first", which is faster, where any order will do.

    Raises:
        ConfigError: No such layer.
    """

    def __init__(
        self,
        maps: ConvMaps,
        *,
        net: SppNet,
        layer: str,
        scales: Sequence[int],
        mapping: CellMapping,
        scale_target: ScaleTarget | Literal["all"],
        side: int,
        order: Order,
    ) -> None:
        self.maps = maps
        self.net = net.eval()
        self.scales = tuple(scales)
        self.mapping: CellMapping = mapping
        self.scale_target: ScaleTarget | Literal["all"] = scale_target
        self.side = side
        self.order: Order = order if layer == "pool" else "bins_first"
        self._fc = FcLayers(net, layer, self.order)
        self.dim = self._fc.dim
        self._is_pooled = layer == "pool"
        # Now, by one thread: it is found by tracing the trunk, and while torch traces, other threads that use
        # the trunk are traced as well.
        self._field = net.backbone.receptive_field
        self._rooms = threading.local()

    def compute(
        self, out: Rows, image: Path, windows: Windows, scales: Scales | None, watch: Stopwatch | None
    ) -> None:
        """Pool windows from maps of the scales they need (see `WindowSource`)."""
        with timed(watch, "decode"):
            short_side = min(self.maps.size(image))
        if self.scale_target == "all":
            self._pool_all_scales(out, image, windows, short_side, watch)
            return
        with timed(watch, "pooling"):
            scales = self._scales_of(windows, short_side) if scales is None else scales
        chosen = sorted(set(scales.tolist()))
        for scale, maps in zip(chosen, self.maps.at(image, chosen, watch=watch), strict=True):
            with timed(watch, "pooling"):
                rows = (scales == scale).nonzero()[:, 0]
                resized = scale_windows(windows[rows], short_side, scale)
                if self._is_pooled and len(rows) == len(windows):  # as of a single scale: nothing to copy
                    self._pooled(maps, self._cells(maps, resized), out)
                    return
                pooled, inverse = self._different(maps, resized)
            with timed(watch, "fc"):
                out[rows] = self._fc(pooled).cpu()[inverse]
            if watch is not None:
                watch.num_computed += len(pooled)

    def _pool_all_scales(
        self, out: Rows, image: Path, windows: Windows, short_side: int, watch: Stopwatch | None
    ) -> None:
        """Pool windows at every scale, and keep the largest response of each channel and bin."""
        pooled = out if self._is_pooled else out.new_empty(len(out), self._fc.num_pooled).to(self.net.device)
        for number, maps in enumerate(self.maps.at(image, self.scales, watch=watch)):
            with timed(watch, "pooling"):
                cells = self._cells(maps, scale_windows(windows, short_side, self.scales[number]))
                room = self._room(len(cells)) if number else pooled
                self._pooled(maps.to(room.device), cells.to(room.device), room)
                if number:
                    torch.maximum(pooled, room, out=pooled)
        if not self._is_pooled:
            with timed(watch, "fc"):
                out.copy_(self._fc(pooled))
        if watch is not None:
            watch.num_computed += len(windows)

    def places(self, image: Path, windows: Windows) -> Places:
        """Tell what windows of one image are pooled from (see `WindowSource`).

        Raises:
            ConfigError: They are pooled from all scales.
            ValueError: A window is inverted or not finite.
        """
        if self.scale_target == "all":
            raise ConfigError(
                "windows pooled at all scales are in no one place; set mining.duplicate_cells=false"
            )
        short_side = min(self.maps.size(image))
        scales = self._scales_of(windows, short_side)
        out = torch.empty(len(windows), 5, dtype=torch.int64)
        chosen = sorted(set(scales.tolist()))
        for scale, maps in zip(chosen, self.maps.at(image, chosen), strict=True):
            rows = (scales == scale).nonzero()[:, 0]
            cells = self._cells(maps, scale_windows(windows[rows], short_side, scale))
            out[rows] = torch.cat([scales[rows, None], cells], dim=1)
        return out

    def _scales_of(self, windows: Tensor, short_side: int) -> Scales:
        assert self.scale_target != "all"
        return choose_scale(windows, short_side, self.scales, self.scale_target, side=self.side)

    def _cells(self, maps: Tensor, windows: Tensor) -> Int[Tensor, "n 4"]:
        height, width = maps.shape[1:]
        return map_cells(windows, self._field, (height, width), self.mapping)

    def _different(self, maps: Tensor, windows: Tensor) -> tuple[Float[Tensor, "k p"], Int[Tensor, " n"]]:
        """Pooled vectors of windows of a resized image, and which of them is every window's.

        They are valid until this thread asks again; where there are no fc layers, every window has its own.
        """
        cells = self._cells(maps, windows)
        if self._is_pooled:
            return self._pooled(maps, cells, self._room(len(cells))), torch.arange(len(cells))
        different, inverse = unique_cells(cells)
        device = self.net.device
        room = self._room(len(different))
        return self._pooled(maps.to(device), different.to(device), room), inverse

    def _pooled(self, maps: Tensor, cells: Tensor, out: Tensor) -> Float[Tensor, "n p"]:
        return pool_windows(maps, cells, self.net.levels, order=self.order, out=out)

    def _room(self, num_windows: int) -> Float[Tensor, "n p"]:
        """A buffer of this thread's for pooled windows, where the fc layers are."""
        needed = num_windows * self._fc.num_pooled
        buffer: Tensor | None = getattr(self._rooms, "buffer", None)
        if buffer is None or len(buffer) < needed:
            device = "cpu" if self._is_pooled else self.net.device
            self._rooms.buffer = buffer = torch.empty(needed, device=device)
        return buffer[:needed].view(num_windows, self._fc.num_pooled)
