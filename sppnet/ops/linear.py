"""Fully connected layers of many windows (paper §4.3: on few convolutions, they are what takes the time).

Axes: n windows, d features, k outputs.

`functional.linear` multiplies by MKL, which leaves half of a Zen processor unused; oneDNN, by which torch
convolves, does not: 209 instead of 95 Gflop/s on one core. Torch asks it for float32 products in compiled
code only, so it is called here by the name used there.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def linear_relu(
    rows: Float[Tensor, "n d"], weight: Float[Tensor, "k d"], bias: Float[Tensor, " k"]
) -> Float[Tensor, "n k"]:
    """Compute max(0, rows weight' + bias), quickest on the CPU in float32 while gradients are off."""
    is_plain = rows.is_cpu and rows.dtype == weight.dtype == torch.float32
    if is_plain and not torch.is_grad_enabled() and _HAS_ONEDNN:
        # Not with its own "relu", which turns NaN into 0.
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return result.relu_()
    return functional.linear(rows, weight, bias).relu_()
