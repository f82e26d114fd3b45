"""Features as numpy's or torch's arrays, in and out, and what is to be told apart in them, as signs.

Axes: n rows, d features, k classes.
"""

import numbers
import warnings
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sppnet.errors import NonFiniteError

_LEFT_OUT = (-1, 0, 1)


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
        if features.is_complex():
            raise ValueError(f"features of dtype {features.dtype}; real numbers are needed")
    else:
        array = as_array(source)
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


def as_array(source: Any) -> Any:
    """What is given as a NumPy array, if that loses nothing.

    Raises:
        TypeError: It is a sparse matrix.
        ValueError: It is masked.
    """
    if hasattr(source, "toarray"):
        raise TypeError("a sparse matrix, where a dense array is needed: call .toarray()")
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        return (source.float() if source.dtype == torch.bfloat16 else source).numpy()  # NumPy has none
    if np.ma.is_masked(source):
        raise ValueError("a masked array: what is masked would be read; leave those rows out, or fill them")
    return np.asarray(source)


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


@final
class OneVsRest(NamedTuple):
    """One-vs-rest problems.

    Attributes:
        classes: Name of every class: sorted labels, or the columns' numbers.
        signs: +1, -1, or 0 where a row is left out for a class.
        absent: Of a matrix, what stands in it where a row does not show a class: -1, or 0 of an indicator
            matrix; None of a label per row.
    """

    classes: Any
    signs: Float[Tensor, "k n"]
    absent: int | None


def read_signs(targets: Any, like: Float[Tensor, "n d"]) -> OneVsRest:
    """Read a vector of labels, or a matrix of signs.

    A vector of labels of any kind makes one problem per label, or a single one of two labels (the larger is
    positive). A vector that holds exactly -1, 0 and +1, or a matrix with a column per class, holds signs; a
    matrix without any -1 is an indicator (0 or False: absent), as scikit-learn's and torch's are. A single
    column of labels is read as a vector, with a warning.

    Args:
        targets: n labels, or n x k signs.
        like: The features, for number of rows, dtype and device.

    Raises:
        ValueError: Wrong shape, labels that are not classes, or signs that are no signs.
    """
    if targets is None:
        raise ValueError("requires y to be passed, but the target y is None")
    array = as_array(targets)
    if len(array.shape) not in (1, 2) or len(array) != len(like):
        raise ValueError(
            f"inconsistent numbers of samples: targets have shape {array.shape}, and there are {len(like)} "
            f"rows of features; give a label per row, or a row of signs per row"
        )
    plain = _of_one_kind(array) if array.dtype.kind == "O" else array
    if plain.dtype.kind == "f" and not np.isfinite(plain).all():
        raise ValueError("targets contain NaN or infinity; leave a row out with 0")
    if array.ndim == 2:
        array = plain
    if array.ndim == 1 and plain.dtype.kind == "f" and (plain != np.floor(plain)).any():
        raise ValueError(
            "Unknown label type: continuous targets; a classifier needs labels, such as integers"
        )
    if array.ndim == 2 and array.shape[1] == 1 and not (array.dtype.kind in "if" and (array == -1).any()):
        warnings.warn(
            "a column of labels was passed where a vector is expected: y.ravel() is read", stacklevel=4
        )
        array = array[:, 0]
    if array.ndim == 2:
        return _of_matrix(array, like)
    classes = np.unique(array)
    if array.dtype.kind in "if" and tuple(classes) == _LEFT_OUT:
        return OneVsRest(np.array([-1, 1]), _signs(array[None], like), None)
    positives = classes[-1:] if len(classes) == 2 else classes
    return OneVsRest(classes, _signs(np.where(array == positives[:, None], 1, -1), like), None)


def _of_one_kind(array: Any) -> Any:
    """Objects as the numbers or strings they are; those of one other type as they are."""
    values = array.ravel().tolist()
    if all(isinstance(value, numbers.Real | np.bool_) for value in values):
        return array.astype(np.float64)
    if len(kinds := {type(value) for value in values}) > 1 and not all(
        isinstance(one, str) for one in values
    ):
        named = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"targets of {named}; give labels of one kind, such as strings or integers")
    return array


def _of_matrix(array: Any, like: Tensor) -> OneVsRest:
    if array.dtype.kind not in "iufb" or not np.isin(array, _LEFT_OUT).all():
        found = np.unique(array[~np.isin(array, _LEFT_OUT)])[:3].tolist() or array.dtype
        raise ValueError(f"a matrix of targets holds -1, 0 (left out) and +1, or 0 and 1, and not {found}")
    absent = -1 if (array.astype(np.int8) == -1).any() else 0
    signs = array.T if absent else np.where(array.T, 1, -1)
    return OneVsRest(np.arange(array.shape[1]), _signs(signs, like), absent)


def _signs(array: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(like)
