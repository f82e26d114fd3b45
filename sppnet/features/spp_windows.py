"""Features of windows by spatial pyramid pooling: the convolutions run once an image (paper §4.1).

Axes: n windows, d numbers a vector, k different windows.
"""

import threading
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.features.conv_maps import ConvMaps
from sppnet.models.sppnet import SppNet
from sppnet.ops.linear import linear_relu
from sppnet.ops.pyramid import num_bins
from sppnet.ops.window_pooling import Order, bins_first, pool_windows, unique_cells
from sppnet.ops.windows import Mapping, Target, choose_scale, map_cells, scale_windows

Layer = Literal["pool", "fc6", "fc7"]


@final
class SppWindows:
    """Pools windows from the maps of whole images, and takes them through the fc layers.

    Windows that cover the same cells are computed once.

    Args:
        maps: Of the images.
        net: Has the pyramid and the fc layers; its convolutions are those that made the maps.
        layer: "pool", or "fc6" or "fc7" of the net, dropout off.
        scales: Short sides among which every window's is chosen.
        mapping: From pixels to cells (`sppnet.ops.windows.map_cells`).
        scale_target: How a window's scale is chosen (`sppnet.ops.windows.choose_scale`) ...
        side: ... for so many pixels a side: those of the regions that the net was trained on.
        order: Of the numbers in a vector of layer "pool" (`sppnet.pool_windows`): "pyramid" for fc layers as
            they were trained, "bins_first", which is faster, where any order will do.
    """

    def __init__(
        self,
        maps: ConvMaps,
        *,
        net: SppNet,
        layer: Layer,
        scales: Sequence[int],
        mapping: Mapping,
        scale_target: Target,
        side: int,
        order: Order,
    ) -> None:
        if layer not in ("pool", "fc6", "fc7"):
            raise ConfigError(f"layer {layer!r} of windows: expected pool, fc6 or fc7")
        self.maps = maps
        self.layer = layer
        self.scales = tuple(scales)
        self.mapping: Mapping = mapping
        self.scale_target: Target = scale_target
        self.side = side
        self.net = net.eval()
        self.order: Order = order if layer == "pool" else "bins_first"
        self._rooms = threading.local()
        self._field = net.backbone.receptive_field
        self._num_pooled = net.backbone.out_channels * num_bins(net.levels)
        # Permuted as the windows are pooled; nothing where there is no fc layer.
        weight = net.fc6.weight.detach()
        self._fc6 = bins_first(weight, net.levels) if layer != "pool" else weight[:0]
        self.dim = self._num_pooled if layer == "pool" else net.fc6.out_features

    def rows(
        self,
        index: int,
        windows: Float[Tensor, "n 4"],
        *,
        scales: Int[Tensor, " n"] | None = None,
        out: Float[Tensor, "n d"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Compute the vectors of windows of one image (see `WindowSource`).

        Raises:
            ValueError: A window is inverted or not finite.
        """
        short_side = min(self.maps.size(index))
        if scales is None:
            scales = self._scales_of(windows, short_side)
        out = torch.empty(len(windows), self.dim) if out is None else out
        for scale in sorted(set(scales.tolist())):
            rows = (scales == scale).nonzero()[:, 0]
            resized = scale_windows(windows[rows], short_side, scale)
            if self.layer == "pool" and len(rows) == len(windows):  # as of a single scale: nothing to copy
                return self._pooled(self.maps.at(index, scale), resized, out)
            out[rows] = self._at(index, scale, resized)
        return out

    def places(self, index: int, windows: Float[Tensor, "n 4"]) -> Int[Tensor, "n 5"]:
        """Tell what windows of one image are pooled from: windows of equal places have equal vectors.

        Returns:
            Scale, first column, first row, last column, last row: cells of the map, inclusive.

        Raises:
            ValueError: A window is inverted or not finite.
        """
        short_side = min(self.maps.size(index))
        scales = self._scales_of(windows, short_side)
        out = torch.empty(len(windows), 5, dtype=torch.int64)
        for scale in sorted(set(scales.tolist())):
            rows = (scales == scale).nonzero()[:, 0]
            cells = self._cells(self.maps.at(index, scale), scale_windows(windows[rows], short_side, scale))
            out[rows] = torch.cat([scales[rows, None], cells], dim=1)
        return out

    def _scales_of(self, windows: Tensor, short_side: int) -> Int[Tensor, " n"]:
        return choose_scale(windows, short_side, self.scales, self.scale_target, side=self.side)

    def _cells(self, maps: Tensor, windows: Tensor) -> Int[Tensor, "n 4"]:
        height, width = maps.shape[1:]
        return map_cells(windows, self._field, (height, width), self.mapping)

    def _at(self, index: int, scale: int, windows: Tensor) -> Float[Tensor, "n d"]:
        """Vectors of windows of an image that was resized; valid until this thread asks again."""
        net, maps = self.net, self.maps.at(index, scale)
        if self.layer == "pool":
            return self._pooled(maps, windows, self._room(len(windows)))
        different, inverse = unique_cells(self._cells(maps, windows))
        room = self._room(len(different))
        pooled = pool_windows(maps, different, net.levels, order="bins_first", out=room)
        with torch.inference_mode():
            features = linear_relu(pooled.to(self._fc6.device), self._fc6, net.fc6.bias)
            if self.layer == "fc7":
                features = linear_relu(features, net.fc7.weight, net.fc7.bias)
            features = features.cpu()
        return features[inverse].clone()

    def _pooled(self, maps: Tensor, windows: Tensor, out: Tensor) -> Float[Tensor, "n d"]:
        cells = self._cells(maps, windows)
        return pool_windows(maps, cells, self.net.levels, order=self.order, out=out)

    def _room(self, num_windows: int) -> Float[Tensor, "n p"]:
        """A buffer of this thread's for pooled windows."""
        needed = num_windows * self._num_pooled
        buffer: Tensor | None = getattr(self._rooms, "buffer", None)
        if buffer is None or len(buffer) < needed:
            self._rooms.buffer = buffer = torch.empty(needed)
        return buffer[:needed].view(num_windows, self._num_pooled)
