"""Features as numpy's or torch's arrays, in and out.

Axes: n rows, d features.
"""

import warnings
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.errors import NonFiniteError


@final
class NonFiniteFeaturesError(NonFiniteError, ValueError):
    """NaN or infinite features; a ValueError, too, as scikit-learn expects it."""


def read_features(source: Any, device: str | torch.device | None) -> Float[Tensor, "n d"]:
    """View an array as a tensor; it is copied only if its dtype, layout or device make it necessary.

    Args:
        source: Array (memory maps, too), tensor or nested lists, n x d.
        device: Where to; None: where it is.

    Raises:
        ValueError: It is no matrix of real numbers, or empty.
        NonFiniteFeaturesError: It holds NaN or infinity.
    """
    if isinstance(source, Tensor):
        features = source.detach()
    else:
        if hasattr(source, "toarray"):
            raise TypeError("features are a sparse matrix, a dense array is needed: call .toarray()")
        array = np.asarray(source)
        if array.dtype.kind not in "iufbO":
            raise ValueError(
                f"features of dtype {array.dtype}; real numbers are needed. Complex data not supported"
            )
        # What torch has no type for, or another byte order: copied.
        if array.dtype.kind in "Oiub" or array.dtype.itemsize > 8 or not array.dtype.isnative:
            array = array.astype(np.float32 if array.dtype.str[1:] in ("f4", "f2") else np.float64)
        with warnings.catch_warnings():  # "not writable", for read-only memory maps: nothing here writes
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            features = torch.from_numpy(array if min(array.strides, default=0) >= 0 else array.copy())
    if features.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got features of shape {tuple(features.shape)}. Reshape your data to n rows "
            f"x d features"
        )
    if 0 in features.shape:
        raise ValueError(
            f"0 sample(s) or 0 feature(s) (shape={tuple(features.shape)}) while a minimum of 1 is required."
        )
    wide = features.dtype == torch.float64 or not features.is_floating_point()
    features = features.to(device, torch.float64 if wide else torch.float32).contiguous()
    if not features.sum().isfinite():  # one number to look at, and no n x d mask
        _refuse_non_finite(features)
    return features


def as_kind_of(result: Tensor, source: Any) -> Any:
    """Give a result as the kind of array that the source is, and on its device."""
    return result.to(source.device) if isinstance(source, Tensor) else result.cpu().numpy()


def _refuse_non_finite(features: Tensor) -> None:
    for row, values in enumerate(features):
        if not values.isfinite().all():
            kind = "NaN" if values.isnan().any() else "infinity"
            raise NonFiniteFeaturesError(
                f"Input X contains {kind} (row {row}); look at what made the features: an image, or a net "
                f"that diverged"
            )
