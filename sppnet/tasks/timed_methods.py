"""SPP-net's and R-CNN's way from an image and its windows to fc7, timed stage by stage (paper §4.2, §4.3).

Axes: n windows, k different windows, d numbers of fc7.

Both run the same net on the same device, in torch's number of threads and precision, with the same kernels,
memory layout and reused buffers. What differs besides the method: SPP-net computes windows that cover the
same cells once, which changes no result and has no counterpart in R-CNN.
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sppnet.data.images import resize_short_side
from sppnet.windows.warped import image_tensor, mean_square
from sppnet.models.sppnet import SppNet
from sppnet.ops.linear import linear_relu
from sppnet.ops.pyramid import num_bins
from sppnet.ops.warp import warp_windows
from sppnet.ops.window_pooling import bins_first, pool_windows, unique_cells
from sppnet.ops.windows import Mapping, Target, choose_scale, map_cells, scale_windows
from sppnet.tasks.timing import Fc7, Stopwatch


@final
class SppMethod:
    """One pass over the image at every scale, then windows are pooled from the maps (§4.1).

    Args:
        net: The network, on the device it is to run on.
        scales: Short sides; maps are computed at all of them.
        mapping: From pixels to cells.
        scale_target: How a window's scale is chosen ...
        side: ... for so many pixels a side.
    """

    def __init__(
        self, *, net: SppNet, scales: Sequence[int], mapping: Mapping, scale_target: Target, side: int
    ) -> None:
        self.net = net
        self.scales = tuple(scales)
        self.mapping: Mapping = mapping
        self.scale_target: Target = scale_target
        self.side = side
        self._head = _Head(net, bins_first(net.fc6.weight.detach(), net.levels))

    def fc7(self, image: Image.Image, windows: Float[Tensor, "n 4"], watch: Stopwatch) -> Fc7:
        """Compute the features of windows (see `Method`)."""
        with watch.stage("prepare"):
            resized = [resize_short_side(image, scale)[None].to(windows.device) for scale in self.scales]
        with watch.stage("conv"):
            maps = [self.net.maps(pixels.float()) for pixels in resized]
        with watch.stage("pooling"):
            pooled, source = self._pooled(maps, windows, min(image.size))
        with watch.stage("fc"):
            rows = self._head.fc7(pooled)[source]
        return Fc7(rows, len(pooled))

    def _pooled(self, maps: Sequence[Tensor], windows: Tensor, short_side: int) -> tuple[Tensor, Tensor]:
        """Pool the different windows (k d), and tell which of them every window is (n)."""
        net, room = self.net, self._head.room(len(windows))
        chosen = choose_scale(windows, short_side, self.scales, self.scale_target, side=self.side)
        source = torch.empty(len(windows), dtype=torch.long, device=windows.device)
        stop = 0
        for scale, map_ in zip(self.scales, maps, strict=True):
            here = chosen == scale
            height, width = map_.shape[2:]
            resized = scale_windows(windows[here], short_side, scale)
            cells = map_cells(resized, net.backbone.receptive_field, (height, width), self.mapping)
            different, inverse = unique_cells(cells)
            start, stop = stop, stop + len(different)
            pool_windows(map_, different, net.levels, order="bins_first", out=room[start:stop])
            source[here] = start + inverse
        return room[:stop], source


@final
class RcnnMethod:
    """Every window is warped and passes the net on its own (§4.2).

    Args:
        net: The network, on the device it is to run on.
        size: Side of a warped window, pixels.
        context: Margin around the window, pixels of the warped one.
        batch_size: Warped windows that pass the convolutions together.
        max_windows: Evenly spaced windows that are warped, convolved and pooled, and their time multiplied;
            the fc layers are timed on as many vectors as there are windows, these over and over. None: all.
    """

    def __init__(
        self, *, net: SppNet, size: int, context: int, batch_size: int, max_windows: int | None
    ) -> None:
        self.net = net
        self.size = size
        self.context = context
        self.batch_size = batch_size
        self.max_windows = max_windows
        self._head = _Head(net, net.fc6.weight.detach())

    def fc7(self, image: Image.Image, windows: Float[Tensor, "n 4"], watch: Stopwatch) -> Fc7:
        """Compute the features of windows (see `Method`)."""
        room = self._head.room(len(windows))
        num = min(len(windows), self.max_windows or len(windows))
        some = windows[torch.arange(num) * len(windows) // num]
        times, device = len(windows) / num, windows.device
        with watch.stage("prepare"):
            pixels, fill = image_tensor(image).to(device), mean_square(self.net, self.size)
        for start in range(0, num, self.batch_size):
            part = slice(start, min(start + self.batch_size, num))
            with watch.stage("prepare", times):
                squares = warp_windows(pixels, some[part], size=self.size, context=self.context, fill=fill)
            with watch.stage("conv", times):
                maps = self.net.maps(squares)
            with watch.stage("pooling", times):
                room[part] = self.net.pool(maps)
        for start in range(num, len(windows), num):
            room[start : start + num] = room[: len(windows) - start][:num]
        with watch.stage("fc"):
            rows = self._head.fc7(room)
        return Fc7(rows, num)


@final
class _Head:
    """The fc layers, and a buffer for what goes into them: fresh memory would cost more than pooling."""

    def __init__(self, net: SppNet, fc6_weight: Tensor) -> None:
        self._net = net
        self._weight = fc6_weight
        self._buffer = fc6_weight.new_empty(0, net.backbone.out_channels * num_bins(net.levels))

    def room(self, num_rows: int) -> Tensor:
        """Rows to write pooled windows to, valid until the next call."""
        if num_rows > len(self._buffer):
            self._buffer = self._buffer.new_empty(num_rows, self._buffer.shape[1])
        return self._buffer[:num_rows]

    def fc7(self, pooled: Tensor) -> Tensor:
        """Compute fc7 of pooled windows."""
        features = linear_relu(pooled, self._weight, self._net.fc6.bias)
        return linear_relu(features, self._net.fc7.weight, self._net.fc7.bias)
