"""What one cell of a feature map sees: stride, size and offset of any convolutional trunk (Appendix A).

Every layer with kernel k, stride s and padding p, at a stride S so far, widens the receptive field by
(k-1)*S and moves its left edge p*S further left; then S becomes s*S. Cell j sees the pixels
S*j - padding to S*j - padding + size - 1. Where branches meet, the field is their union.

Windows of normalisation are not counted, as in the paper's 139 pixels for ZF-5: a response inside a channel
depends weakly on its neighbours, and the paper maps windows by convolutions and poolings alone. What is
averaged over the whole map (the gates of squeeze and excitation) is not a matter of position and is left
out as well.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules import activation, batchnorm, dropout
from torchvision.ops import stochastic_depth

from sppnet.errors import ConfigError
from sppnet.ops.lrn import ResponseNorm


class ReceptiveField(NamedTuple):
    """Geometry of a trunk, in pixels, the same for rows and columns.

    Attributes:
        stride: Pixels from one cell to the next (S).
        size: Pixels per side that a cell sees (R).
        padding: How far left of pixel 0 the first cell's field begins (P).
    """

    stride: int
    size: int
    padding: int

    @property
    def first_centre(self) -> float:
        """Centre of the first cell's field, a 0-based pixel: (R-1)/2 - P."""
        return (self.size - 1) / 2 - self.padding


class _Reach(NamedTuple):
    """Cell j of one axis sees the pixels stride*j - before to stride*j + after."""

    stride: int
    before: int
    after: int

    def through(self, kernel: int, stride: int, padding: int, dilation: int) -> "_Reach":
        span = (kernel - 1) * dilation
        return _Reach(
            self.stride * stride,
            self.before + padding * self.stride,
            self.after + (span - padding) * self.stride,
        )


# Rows and columns; None where a value no longer has a position (pooled over the whole map).
_Axes = tuple[_Reach, _Reach] | None

_POINTWISE_MODULES = (
    nn.Identity,
    nn.Linear,  # on channels, between two permutations (ConvNeXt)
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    ResponseNorm,
    batchnorm._NormBase,
    dropout._DropoutNd,
)
_POINTWISE_FUNCTIONS = (
    operator.add, operator.iadd, operator.mul, operator.imul, operator.truediv,
    torch.add, torch.mul, torch.cat, torch.concat, torch.permute, torch.relu, torch.sigmoid,
    stochastic_depth,
    functional.relu, functional.relu6, functional.leaky_relu, functional.gelu, functional.silu,
    functional.hardswish, functional.hardsigmoid, functional.sigmoid, functional.softplus,
    functional.dropout, functional.dropout2d, functional.layer_norm, functional.batch_norm,
    functional.group_norm, functional.local_response_norm,
)  # fmt: skip
_POINTWISE_METHODS = {
    "add", "add_", "mul", "mul_", "permute", "contiguous", "clone", "relu", "relu_", "sigmoid",
}  # fmt: skip


def receptive_field(trunk: nn.Module) -> ReceptiveField:
    """Derive the geometry of a trunk from its modules.

    Args:
        trunk: Maps images n 3 h w to maps n c h' w'; must be traceable by torch.fx.

    Returns:
        Stride, size and padding.

    Raises:
        ConfigError: A module or function whose reach is not known, branches of different strides, rows
            that differ from columns, or an output that has no position.
    """
    graph = _Tracer().trace(trunk)
    modules = dict(trunk.named_modules())
    reaches: dict[fx.Node, _Axes] = {}
    for node in graph.nodes:
        if node.op == "output":
            return _summary(_merged(node, reaches))
        if node.op == "placeholder":
            reaches[node] = (_Reach(1, 0, 0), _Reach(1, 0, 0))
        elif node.op == "get_attr" or (axes := _merged(node, reaches)) is None:
            reaches[node] = None
        elif node.op == "call_module":
            reaches[node] = _through_module(axes, modules[node.target], node)
        else:
            reaches[node] = _through_function(axes, node)
    raise AssertionError("a traced graph ends in its output")


class _Tracer(fx.Tracer):
    """Keeps our normalisations whole: they look at the memory layout, which a trace does not have."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ResponseNorm) or super().is_leaf_module(m, module_qualified_name)


def _merged(node: fx.Node, reaches: dict[fx.Node, _Axes]) -> _Axes:
    """Union of what the inputs of a node see."""
    merged: _Axes = None
    for axes in (reaches[source] for source in node.all_input_nodes):
        if axes is None:
            continue
        if merged is None:
            merged = axes
            continue
        pairs = list(zip(merged, axes, strict=True))
        for one, other in pairs:
            if one.stride != other.stride:
                raise ConfigError(
                    f"{_named(node)}: joins branches of strides {one.stride} and {other.stride}; "
                    f"a cell of such a map has no single position: cut the trunk before it"
                )
        rows, columns = (_Reach(a.stride, max(a.before, b.before), max(a.after, b.after)) for a, b in pairs)
        merged = rows, columns
    return merged


def _through_module(axes: tuple[_Reach, _Reach], module: nn.Module, node: fx.Node) -> _Axes:
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        dilation = 1 if isinstance(module, nn.AvgPool2d) else module.dilation
        return _through(axes, module.kernel_size, module.stride, _padding(module), dilation)
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        if module.output_size in (1, (1, 1)):
            return None
    elif isinstance(module, _POINTWISE_MODULES) or _is_activation(module):
        return axes
    raise _unknown(node, type(module).__name__)


def _padding(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> int | Sequence[int]:
    if isinstance(module, nn.Conv2d) and module.padding == "same":
        return [d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return 0 if isinstance(module.padding, str) else module.padding


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == activation.__name__ and not isinstance(module, nn.MultiheadAttention)


def _through_function(axes: tuple[_Reach, _Reach], node: fx.Node) -> _Axes:
    target: Any = node.target
    if node.op == "call_method":
        if target in _POINTWISE_METHODS:
            return axes
        if target == "mean":
            return None
        raise _unknown(node, f"the method {target}")
    if target in _POINTWISE_FUNCTIONS:
        return axes
    if target is torch.mean or (
        target is functional.adaptive_avg_pool2d and node.args[1:2] in ((1,), ((1, 1),))
    ):
        return None
    pooling = _POOLINGS.get(target)
    if pooling is not None:
        module = pooling(*node.args[1:], **{k: v for k, v in node.kwargs.items() if k != "input"})
        return _through_module(axes, module, node)
    raise _unknown(node, f"the function {getattr(target, '__name__', target)}")


# The functional forms take a module's arguments in a module's order.
_POOLINGS: dict[Any, Callable[..., nn.Module]] = {
    functional.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    torch.max_pool2d: nn.MaxPool2d,
}


def _through(
    axes: tuple[_Reach, _Reach],
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> tuple[_Reach, _Reach]:
    settings = [
        (value, value) if isinstance(value, int) else value for value in (kernel, stride, padding, dilation)
    ]
    rows, columns = (reach.through(*(pair[i] for pair in settings)) for i, reach in enumerate(axes))
    return rows, columns


def _summary(axes: _Axes) -> ReceptiveField:
    if axes is None:
        raise ConfigError("the trunk's output has no position: cut it before its global pooling")
    rows, columns = axes
    if rows != columns:
        raise ConfigError(
            f"the trunk sees rows and columns differently ({rows} and {columns}); not supported"
        )
    return ReceptiveField(rows.stride, rows.before + rows.after + 1, rows.before)


def _unknown(node: fx.Node, what: str) -> ConfigError:
    return ConfigError(
        f"{_named(node)}: the reach of {what} is not known; a trunk may hold convolutions, poolings, "
        f"normalisations, activations and dropout: choose a layer before it"
    )


def _named(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    stack = [path for path in node.meta.get("nn_module_stack", {}) if path]
    return f"{stack[-1]}, {node.name}" if stack else node.name
