"""What a classifier is asked to tell apart, as one row of signs per class (LinearSvm).

Axes: n rows, k classes.
"""

import warnings
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_LEFT_OUT = (-1, 0, 1)


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
    array = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
    if len(array.shape) not in (1, 2) or len(array) != len(like):
        raise ValueError(
            f"inconsistent numbers of samples: targets have shape {array.shape}, and there are {len(like)} "
            f"rows of features; give a label per row, or a row of signs per row"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("targets contain NaN or infinity; leave a row out with 0")
    if array.ndim == 1 and array.dtype.kind == "f" and (array != np.floor(array)).any():
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


def _of_matrix(array: Any, like: Tensor) -> OneVsRest:
    if array.dtype.kind not in "iufb" or not np.isin(array, _LEFT_OUT).all():
        found = np.setdiff1d(array, _LEFT_OUT)[:3].tolist()
        raise ValueError(f"a matrix of targets holds -1, 0 (left out) and +1, or 0 and 1, and not {found}")
    absent = -1 if (array.astype(np.int8) == -1).any() else 0
    signs = array.T if absent else np.where(array.T, 1, -1)
    return OneVsRest(np.arange(array.shape[1]), _signs(signs, like), absent)


def _signs(array: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(like)
