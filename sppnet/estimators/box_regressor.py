"""Box regression: from the features of a window to a box that fits the object better (paper §4.1).

As in R-CNN (rcnn_train_bbox_regressor.m, rcnn_predict_bbox_regressor.m), whose features are those of the last
pooling layer, with a mean norm of 20.

Axes: n windows, d features, 4 offsets.
"""

from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.estimators.arrays import read_features
from sppnet.ops.boxes import decode_offsets, encode_offsets, require_tensors

_WHITENING_FLOOR = 0.001  # added to the variances of the offsets (R-CNN, rcnn_train_bbox_regressor.m)
_BLOCK = 1024  # rows or columns that are float64 at a time: the features themselves stay as they are


@final
class BoxRegressorState(NamedTuple):
    """All that a prediction needs; zeros where there was nothing to learn from."""

    weights: Float[Tensor, "d 4"]  # float64
    bias: Float[Tensor, " 4"]
    num_windows: Int[Tensor, ""]  # that it was fitted to


@final
class BoxRegressor:
    """Ridge regression of the four offsets of one class.

    The offsets are centred and whitened; a constant feature of 1 is appended, and is regularised with the
    others. As one `ridge` serves all four offsets, whitening and its inverse cancel out but for rounding: it
    is here because R-CNN does it. Solved in float64 by Cholesky factorisation, of the d x d matrix or, with
    fewer windows than features, of the n x n one.

    Args:
        ridge: Weight of the squared weights against the squared errors, positive (R-CNN's lambda: 1000); None
            of one that is not to be fitted.

    Raises:
        ConfigError: `ridge` is not positive and finite.
    """

    _state: BoxRegressorState

    def __init__(self, *, ridge: float | None) -> None:
        if ridge is not None and not 0 < ridge < float("inf"):
            raise ConfigError(f"ridge={ridge} must be positive and finite; R-CNN takes 1000")
        self.ridge = ridge

    @classmethod
    def from_state(cls, state: BoxRegressorState) -> "BoxRegressor":
        """Make the regressor that `state` was taken from; it moves windows, and is not fitted again."""
        regressor = cls(ridge=None)
        regressor._state = state
        return regressor

    @property
    def status_(self) -> Literal["fitted", "no samples"]:
        """Where there were "no samples", every window is predicted to stay as it is."""
        return "fitted" if self.state().num_windows else "no samples"

    def state(self) -> BoxRegressorState:
        """Plain tensors to be written to a file.

        Raises:
            ConfigError: It was not fitted.
        """
        if not hasattr(self, "_state"):
            raise ConfigError("a BoxRegressor is asked before it is fitted: call fit first")
        return self._state

    def fit(
        self,
        features: Float[Tensor, "n d"],
        windows: Float[Tensor, "n 4"],
        truth: Float[Tensor, "n 4"],
    ) -> "BoxRegressor":
        """Learn to move the windows of a class to the boxes they should be.

        Args:
            features: Of the windows.
            windows: x1 y1 x2 y2; those that overlap their truth well enough (IoU of 0.5 or more).
            truth: The box each of them should become.

        Raises:
            NonFiniteError: Features hold NaN or infinity.
            ValueError: A box is inverted or not finite.
            ConfigError: `ridge` is too small for features like these.
        """
        require_tensors(features, windows, truth)
        if not len(features) == len(windows) == len(truth):
            raise ValueError(
                f"{len(features)} features, {len(windows)} windows, {len(truth)} boxes: one each"
            )
        if self.ridge is None:
            raise ConfigError(
                "a regressor of a state has no ridge to be fitted with; make one with ridge=..."
            )
        num_windows = torch.tensor(len(features))
        if num_windows == 0:
            zeros = features.new_zeros(features.shape[1] + 1, 4, dtype=torch.float64)
            self._state = BoxRegressorState(zeros[:-1], zeros[-1], num_windows)
        else:
            device = features.device
            offsets = encode_offsets(windows.to(device).double(), truth.to(device).double())
            mean = offsets.mean(dim=0)
            whiten, unwhiten = _whitening(offsets - mean)
            solve = _solve_dual if features.shape[0] < features.shape[1] else _solve_primal
            solution = solve(read_features(features, None), (offsets - mean) @ whiten, self.ridge) @ unwhiten
            self._state = BoxRegressorState(solution[:-1], solution[-1] + mean, num_windows)
        return self

    def predict(self, features: Float[Tensor, "n d"], windows: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Move windows to where the objects are likely to end; the result may leave the image.

        Args:
            features: Of the windows.
            windows: x1 y1 x2 y2; the result has their device and dtype, or float32 if they are whole.

        Raises:
            ConfigError: It was not fitted.
            NonFiniteError: Features hold NaN or infinity.
            ValueError: A window is inverted or not finite, or features are of another number.
        """
        require_tensors(features, windows)
        weights, bias, _ = self.state()
        if features.shape != (len(windows), len(weights)):
            raise ValueError(
                f"features of shape {tuple(features.shape)}: expected {len(weights)} for each of "
                f"{len(windows)} windows"
            )
        if not len(features):
            return windows if windows.is_floating_point() else windows.float()
        features = read_features(features, None)
        offsets = torch.addmm(bias.to(features), features, weights.to(features))
        moved = decode_offsets(windows.double(), offsets.to(windows.device, torch.float64))
        return moved.to(windows.dtype if windows.is_floating_point() else torch.float32)


def _whitening(centred: Float[Tensor, "n 4"]) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "4 4"]]:
    """The matrix that makes offsets uncorrelated and of variance 1 (nearly), and its inverse."""
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    deviations = (variances.clamp(min=0) + _WHITENING_FLOOR).sqrt()
    return axes / deviations @ axes.T, axes * deviations @ axes.T


def _solve_primal(
    features: Float[Tensor, "n d"], targets: Float[Tensor, "n 4"], ridge: float
) -> Float[Tensor, "d+1 4"]:
    """(X'X + ridge I)^-1 X'Y, X with its constant feature."""
    size = features.shape[1] + 1
    matrix = ridge * torch.eye(size, dtype=torch.float64, device=features.device)
    moments = matrix.new_zeros(size, 4)
    for block, wanted in zip(torch.split(features, _BLOCK), torch.split(targets, _BLOCK), strict=True):
        rows = torch.nn.functional.pad(block.double(), (0, 1), value=1.0)
        matrix.addmm_(rows.T, rows)
        moments.addmm_(rows.T, wanted)
    return _cholesky_solve(matrix, moments, ridge)


def _solve_dual(
    features: Float[Tensor, "n d"], targets: Float[Tensor, "n 4"], ridge: float
) -> Float[Tensor, "d+1 4"]:
    """X' (XX' + ridge I)^-1 Y: the same solution."""
    matrix = ridge * torch.eye(len(features), dtype=torch.float64, device=features.device)
    matrix += 1  # the constant feature's share
    for block in torch.split(features, _BLOCK, dim=1):
        columns = block.double()
        matrix.addmm_(columns, columns.T)
    duals = _cholesky_solve(matrix, targets, ridge)
    weights = [block.double().T @ duals for block in torch.split(features, _BLOCK, dim=1)]
    return torch.cat([*weights, duals.sum(dim=0, keepdim=True)])


def _cholesky_solve(
    matrix: Float[Tensor, "p p"], right: Float[Tensor, "p 4"], ridge: float
) -> Float[Tensor, "p 4"]:
    factor, failed_at = torch.linalg.cholesky_ex(matrix)
    if failed_at:
        raise ConfigError(
            f"ridge={ridge} is lost beside sums of squares of {float(matrix.diagonal().max()):g}: "
            f"raise it, or scale the features (R-CNN: a mean norm of 20 and 1000)"
        )
    return torch.cholesky_solve(right, factor)
