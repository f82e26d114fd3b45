"""Response normalisation, across channels and within a channel (paper Table 1, "LRN").

Both divide an activation by (k + alpha * mean of squares over a window) ** beta. The window runs over
neighbouring channels (AlexNet) or over a square of cells of the same channel (the authors' ZF-5,
Caffe's WITHIN_CHANNEL). On a processor the stock module takes half of a trunk's time, because every
step of it writes a whole map to memory; here a map is worked off in strips that stay in the cache.

Axes: n images, c channels, h w cells.
"""

import abc
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sppnet.ops.boxes import require_tensors

# Numbers of a strip: three or four float32 buffers of this size fit a core's second-level cache.
_STRIP = 96 * 1024
# Strips that overlap (window along the strip) recompute their margins: longer ones waste less.
_OVERLAPPING_STRIP = 256 * 1024


class _Window(NamedTuple):
    """What is averaged, and what is done with the mean."""

    size: int
    alpha: float
    beta: float
    k: float
    across: bool


def local_response_norm(
    maps: Float[Tensor, "n c h w"], *, size: int, alpha: float, beta: float, k: float
) -> Float[Tensor, "n c h w"]:
    """Normalise across channels: the numbers of `torch.nn.functional.local_response_norm`, sooner.

    As in Caffe, `alpha` multiplies the mean of the squares, not their sum. Channels outside the map count
    as zeros. Memory layout and dtype are kept; bfloat16 is computed in float32.

    Args:
        maps: Activations.
        size: Channels in a window, centred (an even window reaches one further down).
        alpha: Weight of the mean square; values near 1e-4 presume images in 0..255.
        beta: Exponent.
        k: Added to the weighted mean, positive.
    """
    return _normalise(maps, _Window(size, alpha, beta, k, across=True))


def within_channel_norm(
    maps: Float[Tensor, "n c h w"], *, size: int, alpha: float, beta: float, k: float
) -> Float[Tensor, "n c h w"]:
    """Normalise over a `size` x `size` square of the same channel (Caffe's WITHIN_CHANNEL).

    Cells outside the map count as zeros and are counted (Zeiler_conv5.prototxt: 3, 5e-5, 0.75, 1).

    Args:
        maps: Activations.
        size: Cells per side of the square, odd.
        alpha: Weight of the mean square.
        beta: Exponent.
        k: Added to the weighted mean, positive (1 in Caffe).

    Raises:
        TypeError: The maps are no tensor.
        ValueError: They are not `n c h w` real numbers, or `size` is even: the square would have no centre.
    """
    if size % 2 == 0:
        raise ValueError(f"size={size}: a window within a channel needs an odd side, such as 3")
    return _normalise(maps, _Window(size, alpha, beta, k, across=False))


class ResponseNorm(nn.Module, abc.ABC):
    """Module form of a normalisation; the settings are those of the function."""

    def __init__(self, *, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    @abc.abstractmethod
    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise."""

    def extra_repr(self) -> str:
        """Show the settings in print(net)."""
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


@final
class LocalResponseNorm(ResponseNorm):
    """Module form of `local_response_norm`."""

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise across channels."""
        return local_response_norm(maps, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k)


@final
class WithinChannelNorm(ResponseNorm):
    """Module form of `within_channel_norm`."""

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Normalise within each channel."""
        return within_channel_norm(maps, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k)


def _normalise(maps: Tensor, window: _Window) -> Tensor:
    require_tensors(maps)
    if maps.dim() != 4 or not maps.is_floating_point():
        raise ValueError(f"maps {tuple(maps.shape)} of {maps.dtype}: expected n c h w real numbers")
    if not isinstance(window.size, Integral) or window.size < 1:
        raise ValueError(f"size={window.size}: expected a window of 1 or more, a whole number")
    if torch.compiler.is_compiling() or maps.is_meta:
        return _plain(maps, window)  # a compiler fuses this itself, and wants no loop over strips
    if torch.is_grad_enabled() and maps.requires_grad:
        result: Tensor = _Normalise.apply(maps, window)
        return result
    # Without a Function: what one returns under no_grad has lost its channels-last strides.
    return _in_strips(_forward_strip, window, 1, _dense(maps))


def _plain(maps: Tensor, window: _Window) -> Tensor:
    """Write the definition down in stock operations."""
    size, alpha, beta, k, across = window
    if across:
        return functional.local_response_norm(maps, size, alpha, beta, k)
    mean = functional.avg_pool2d(maps * maps, size, 1, size // 2, count_include_pad=True)
    return maps * (k + alpha * mean) ** -beta


class _Normalise(torch.autograd.Function):
    """Keeps the input only: the scale is cheaper to compute again than to store."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, window: _Window) -> Tensor:
        maps = _dense(maps)
        ctx.save_for_backward(maps)
        ctx.window = window
        return _in_strips(_forward_strip, window, 1, maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (maps,) = ctx.saved_tensors
        same_layout = torch.empty_like(maps).copy_(grad) if grad.stride() != maps.stride() else grad
        # A cell's gradient holds the scales of its neighbours: the margin is two windows wide.
        return _in_strips(_backward_strip, ctx.window, 2, maps, same_layout), None


def _dense(maps: Tensor) -> Tensor:
    """Give the map one of the two layouts that `_blocks` can view."""
    return maps if _is_channels_last(maps) else maps.contiguous()


def _is_channels_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last)


def _blocks(maps: Tensor, across: bool) -> tuple[Sequence[Tensor], int, tuple[int, ...]]:
    """Views of a map, the axis to cut them along, and the axes of the window."""
    _, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1)
    if not maps.is_cpu:  # one launch for all
        if _is_channels_last(maps):
            return [rows], 0, (3,) if across else (1, 2)
        return [maps], 0, (1,) if across else (2, 3)
    if _is_channels_last(maps):
        return ([rows.view(-1, channels)], 0, (1,)) if across else (rows.unbind(), 0, (0, 1))
    if across:
        return maps.view(-1, channels, height * width).unbind(), 1, (0,)
    return [maps.view(-1, height, width)], 0, (1, 2)


def _in_strips(strip: Callable[..., Tensor], window: _Window, margins: int, *sources: Tensor) -> Tensor:
    """Make a map like the first of `sources` out of what `strip` returns for pieces of them."""
    result = torch.empty_like(sources[0])
    if result.numel() == 0:
        return result
    targets, cut, axes = _blocks(result, window.across)
    margin = margins * (window.size // 2) if cut in axes else 0
    blocks = [_blocks(source, window.across)[0] for source in sources]
    for target, *inputs in zip(targets, *blocks, strict=True):
        length = target.shape[cut]
        numbers = _OVERLAPPING_STRIP if margin else _STRIP
        step = max(1, numbers * length // target.numel()) if target.is_cpu else length
        for start in range(0, length, step):
            count = min(step, length - start)
            low = max(0, start - margin)
            high = min(length, start + count + margin)
            piece = strip(window, axes, *(block.narrow(cut, low, high - low) for block in inputs))
            target.narrow(cut, start, count).copy_(piece.narrow(cut, start - low, count))
    return result


def _forward_strip(window: _Window, axes: tuple[int, ...], maps: Tensor) -> Tensor:
    maps = _widened(maps)
    base, strides = _base(window, axes, maps)
    return maps * _power(base, window.beta).as_strided(maps.shape, strides)


def _backward_strip(window: _Window, axes: tuple[int, ...], maps: Tensor, grad: Tensor) -> Tensor:
    """Differentiate x_j * b_j**-beta, where b_j = k + alpha * mean of x_i**2 over j's window.

    d/dx_i = g_i * b_i**-beta - 2 alpha beta / count * x_i * sum over the j whose window holds i of
    g_j * x_j * b_j**(-beta - 1).
    """
    maps, grad = _widened(maps), _widened(grad)
    base, strides = _base(window, axes, maps)
    scale = _power(base, window.beta)
    padded, centre = _padded(maps, axes, window.size, (window.size - 1) // 2, 0.0)
    torch.mul(maps, grad, out=centre)
    centre.mul_(scale.div(base).as_strided(maps.shape, strides))
    sums = _box_sums(padded, axes, window.size).as_strided(maps.shape, strides)
    factor = 2 * window.alpha * window.beta / window.size ** len(axes)
    return (grad * scale.as_strided(maps.shape, strides)).addcmul_(maps, sums, value=-factor)


def _base(window: _Window, axes: tuple[int, ...], maps: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return k + alpha * mean square of every window, flat, and the strides that read it as a map."""
    count = window.size ** len(axes)
    # k is spread over the window's members, padding included, so that the sum brings it back whole.
    padded, centre = _padded(maps, axes, window.size, window.size // 2, window.k / count)
    centre.addcmul_(maps, maps, value=window.alpha / count)
    return _box_sums(padded, axes, window.size), padded.stride()


def _padded(maps: Tensor, axes: tuple[int, ...], size: int, lead: int, value: float) -> tuple[Tensor, Tensor]:
    """Make a buffer with room for windows at every edge, and a view of its middle."""
    shape = [length + (size - 1) * (axis in axes) for axis, length in enumerate(maps.shape)]
    padded = maps.new_full(shape, value)
    centre = padded
    for axis in axes:
        centre = centre.narrow(axis, lead, maps.shape[axis])
    return padded, centre


def _box_sums(padded: Tensor, axes: tuple[int, ...], size: int) -> Tensor:
    """Sum every window, one axis after the other, as shifts of the flat buffer.

    The shifts run through the padding into the next row, so every operation is one long vector; what they
    leave at padding positions is never read.
    """
    flat = padded.view(-1)
    for axis in axes:
        step = padded.stride(axis)
        length = flat.numel() - (size - 1) * step
        if size > 1:
            total = flat[:length] + flat[step : step + length]
            for shift in range(2 * step, size * step, step):
                total += flat[shift : shift + length]
            flat = total
    return flat


def _power(base: Tensor, beta: float) -> Tensor:
    if beta == 0.75:
        root = base.rsqrt()
        return root.sqrt().mul_(root)  # ten times as fast as pow
    return base**-beta


def _widened(maps: Tensor) -> Tensor:
    """Half precision is computed in float32; nothing else changes."""
    return maps if maps.dtype == torch.float64 else maps.float()
