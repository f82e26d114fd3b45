"""Two ways to hold the weight vectors of many classes (LinearSvm).

A vector's last feature is the bias: a constant `bias_multiplier` is appended to every row in thought.
Newton's method (newton.py) only ever asks for the operations of `Space`.

Axes: k classes, n rows, d features, p numbers per vector, r directions of the preconditioner.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_BLOCK = 1024  # rows of a block of the Gram matrix, and of a float64 copy
_MAX_FACTOR = 2000  # rows beyond which a class's factor costs more than conjugate gradients
_MAX_SHORT = 1024  # features up to which this holds for a class's whole Hessian
_SKETCH_ROWS = 8192  # a preconditioner learns no more from more rows
_WORTH_GATHERING = 0.6  # share of rows in use below which their copy is repaid by a few products

Hessian = Callable[[Float[Tensor, "k p"], Float[Tensor, "k n"]], Float[Tensor, "k p"]]


@final
class Directions(NamedTuple):
    """The few directions in which the features are long, orthonormal.

    Attributes:
        project: Takes a vector to its parts along the directions.
        expand: Makes a vector of parts.
        lengths: Sum over the rows of the squared part, largest first.
    """

    project: Float[Tensor, "r p"]
    expand: Float[Tensor, "r p"]
    lengths: Float[Tensor, " r"]


class Space(ABC):
    """Weight vectors of k classes, one a row, and what Newton's method does with them."""

    @abstractmethod
    def zeros(self, num_classes: int) -> Float[Tensor, "k p"]:
        """Vectors that score 0 everywhere."""

    @abstractmethod
    def adjoint(self, duals: Float[Tensor, "k n"]) -> Float[Tensor, "k p"]:
        """The sum of the rows, each times its number, as a vector."""

    @abstractmethod
    def settle(self, vectors: Float[Tensor, "k p"]) -> tuple[Float[Tensor, "k p"], Float[Tensor, "k n"]]:
        """The vectors, freed from rounding that has piled up, and their scores."""

    @abstractmethod
    def dot(self, left: Float[Tensor, "k p"], right: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        """Inner products of the weight vectors, class by class."""

    @abstractmethod
    def hessian(self, curvature: Float[Tensor, "k n"]) -> tuple[Hessian, Float[Tensor, "k m"]]:
        """Prepare products with I + X^T diag(curvature) X, and the curvature as they want it."""

    def factor(
        self, curvature: Float[Tensor, "k n"], gradient: Float[Tensor, "k p"]
    ) -> Float[Tensor, "k p"] | None:
        """Solve Hessian * step = -gradient without iterating, where the curved rows are few enough."""
        return None

    @abstractmethod
    def find_directions(self, num: int) -> Directions:
        """The longest directions of the features, roughly; at most `num`."""


@final
class FeatureSpace(Space):
    """Primal: a vector is d weights and the bias's.

    Args:
        features: The rows, contiguous.
        bias_multiplier: The constant feature.
        exact: Products in float64, block by block, for the last digits of badly scaled problems.
    """

    def __init__(self, features: Float[Tensor, "n d"], bias_multiplier: float, exact: bool) -> None:
        self.features, self.bias_multiplier, self.exact = features, bias_multiplier, exact

    @cached_property
    def _rough(self) -> Tensor:
        """For Hessians: a slightly wrong one costs an iteration now and then, and halves the reading."""
        fast = not self.exact and _has_fast_bfloat16(self.features)
        return self.features.bfloat16() if fast else self.features

    def zeros(self, num_classes: int) -> Float[Tensor, "k p"]:
        """Weights and bias 0."""
        dtype = torch.float64 if self.exact else self.features.dtype
        return self.features.new_zeros(num_classes, self.features.shape[1] + 1, dtype=dtype)

    def adjoint(self, duals: Float[Tensor, "k n"]) -> Float[Tensor, "k p"]:
        """One pass over the features."""
        if self.exact:
            blocks = zip(torch.split(duals, _BLOCK, 1), torch.split(self.features, _BLOCK), strict=True)
            weights = sum((part @ rows.to(part.dtype) for part, rows in blocks), start=duals.new_zeros(()))
        else:
            weights = duals @ self.features
        return torch.cat([weights, self.bias_multiplier * duals.sum(1, keepdim=True)], 1)

    def settle(self, vectors: Float[Tensor, "k p"]) -> tuple[Float[Tensor, "k p"], Float[Tensor, "k n"]]:
        """One pass over the features; the vectors stay as they are."""
        weights = vectors[:, :-1]
        if self.exact:
            blocks = torch.split(self.features, _BLOCK)
            scores = torch.cat([weights @ rows.to(weights.dtype).T for rows in blocks], 1)
        else:
            scores = weights @ self.features.T
        return vectors, scores.add_(vectors[:, -1:], alpha=self.bias_multiplier)

    def dot(self, left: Float[Tensor, "k p"], right: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        """The plain inner product."""
        return (left * right).sum(1)

    def hessian(self, curvature: Float[Tensor, "k n"]) -> tuple[Hessian, Float[Tensor, "k m"]]:
        """Gather the rows that are curved for any class, if they are few."""
        used = curvature.any(0).nonzero()[:, 0]
        rough = self._rough
        if len(used) < _WORTH_GATHERING * len(rough):
            rough, curvature = rough[used], curvature[:, used]

        def product(vectors: Float[Tensor, "k p"], curvature: Float[Tensor, "#k m"]) -> Float[Tensor, "k p"]:
            scores = (vectors[:, :-1].to(rough.dtype) @ rough.T).to(vectors.dtype)
            curved = scores.add_(vectors[:, -1:], alpha=self.bias_multiplier).mul_(curvature)
            weights = (curved.to(rough.dtype) @ rough).to(vectors.dtype)
            return vectors + torch.cat([weights, self.bias_multiplier * curved.sum(1, keepdim=True)], 1)

        return product, curvature

    def factor(
        self, curvature: Float[Tensor, "k n"], gradient: Float[Tensor, "k p"]
    ) -> Float[Tensor, "k p"] | None:
        """A Cholesky factor of every class's Hessian, in float64, of short features."""
        if gradient.shape[1] > _MAX_SHORT:
            return None
        step = -gradient.double()
        for right, bent in zip(step, curvature.double(), strict=True):
            used = bent.nonzero()[:, 0]
            rows = functional.pad(self.features[used].double(), (0, 1), value=self.bias_multiplier)
            hessian = (rows.T * bent[used]) @ rows
            hessian.diagonal().add_(1)
            factor, failed_at = torch.linalg.cholesky_ex(hessian)
            if failed_at:  # numbers so large that the 1 is lost: conjugate gradients do what can be done
                return None
            right.copy_(torch.cholesky_solve(right.unsqueeze(1), factor)[:, 0])
        return step.to(gradient)

    def find_directions(self, num: int) -> Directions:
        """Randomised subspace iteration, one step (Halko, Martinsson, Tropp 2011)."""
        step = -(-len(self._rough) // _SKETCH_ROWS)
        space = FeatureSpace(self._rough[::step], self.bias_multiplier, exact=False)
        product, flat = space.hessian(self.features.new_ones(1, len(space.features), dtype=torch.float32))
        start = _noise(num, self.features.shape[1] + 1, self.features.device)
        basis = torch.linalg.qr((product(start, flat) - start).T)[0].T.contiguous()
        scores = (basis[:, :-1].to(space._rough.dtype) @ space._rough.T).float()
        scores.add_(basis[:, -1:], alpha=self.bias_multiplier)
        lengths, mix = torch.linalg.eigh(scores @ scores.T)
        basis = (mix.flip(1).T @ basis).to(self.zeros(0).dtype)
        return Directions(basis, basis, step * lengths.flip(0).to(basis.dtype))


@final
class GramSpace(Space):
    """Dual: a vector is n coefficients of the rows, and beside them its n scores.

    Carrying the scores along makes one product with the Gram matrix do for a Hessian and the inner products.

    Args:
        gram: Inner products of the rows, the constant feature included.
    """

    def __init__(self, gram: Float[Tensor, "n n"]) -> None:
        self.gram = gram

    def zeros(self, num_classes: int) -> Float[Tensor, "k p"]:
        """Coefficients 0."""
        return self.gram.new_zeros(num_classes, 2 * len(self.gram))

    def adjoint(self, duals: Float[Tensor, "k n"]) -> Float[Tensor, "k p"]:
        """One product with the Gram matrix."""
        return torch.cat([duals, duals @ self.gram], 1)

    def settle(self, vectors: Float[Tensor, "k p"]) -> tuple[Float[Tensor, "k p"], Float[Tensor, "k n"]]:
        """One product with the Gram matrix."""
        vectors = self.adjoint(vectors[:, : len(self.gram)])
        return vectors, vectors[:, len(self.gram) :]

    def dot(self, left: Float[Tensor, "k p"], right: Float[Tensor, "k p"]) -> Float[Tensor, " k"]:
        """Coefficients of one times scores of the other."""
        return (left[:, : len(self.gram)] * right[:, len(self.gram) :]).sum(1)

    def hessian(self, curvature: Float[Tensor, "k n"]) -> tuple[Hessian, Float[Tensor, "k m"]]:
        """The whole matrix: coefficients outside the curved rows fade only as Newton's method ends."""

        def product(vectors: Float[Tensor, "k p"], curvature: Float[Tensor, "#k m"]) -> Float[Tensor, "k p"]:
            return vectors + self.adjoint(curvature * vectors[:, len(self.gram) :])

        return product, curvature

    def factor(
        self, curvature: Float[Tensor, "k n"], gradient: Float[Tensor, "k p"]
    ) -> Float[Tensor, "k p"] | None:
        """A Cholesky factor per class, in float64, of the curved rows' part of the Gram matrix."""
        if curvature.count_nonzero(1).max() > _MAX_FACTOR:
            return None
        wanted = -gradient[:, : len(self.gram)].double()
        fixed = wanted * (curvature == 0)
        image = (fixed.to(self.gram) @ self.gram).double()
        for step, goal, bent, seen in zip(fixed, wanted, curvature.double(), image, strict=True):
            used = bent.nonzero()[:, 0]
            matrix = self.gram[used][:, used].double()
            matrix.diagonal().add_(1 / bent[used])
            right = (goal[used] / bent[used] - seen[used]).unsqueeze(1)
            factor, failed_at = torch.linalg.cholesky_ex(matrix)
            if failed_at:  # as above
                return None
            step[used] = torch.cholesky_solve(right, factor)[:, 0]
        return self.adjoint(fixed.to(self.gram))

    def find_directions(self, num: int) -> Directions:
        """Randomised eigenvectors of the Gram matrix."""
        basis = torch.linalg.qr(self.gram @ _noise(num, len(self.gram), self.gram.device).T.to(self.gram))[0]
        lengths, mix = torch.linalg.eigh(basis.T @ (self.gram @ basis))
        kept = lengths > 1e-6 * lengths[-1]  # a direction of no length has no unit vector
        lengths, mix = lengths[kept].flip(0), mix[:, kept].flip(1)
        expand = self.adjoint((basis @ mix / lengths.sqrt()).T)
        coefficients = expand[:, : len(self.gram)]
        project = torch.cat([torch.zeros_like(coefficients), coefficients], 1)
        return Directions(project, expand, lengths)


def gram_matrix(features: Float[Tensor, "n d"], bias_multiplier: float) -> Float[Tensor, "n n"]:
    """Inner products of all rows, half of them computed, the other half mirrored.

    Args:
        features: The rows, contiguous.
        bias_multiplier: The constant feature of every row.
    """
    gram = features.new_empty(len(features), len(features))
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK]
        stop = start + len(block)
        gram[start:stop, :stop] = _outer(block, features[:stop])
        gram[:start, start:stop] = gram[start:stop, :start].T
    return gram.add_(bias_multiplier**2)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right.T; oneDNN has AVX-512 kernels where MKL, on AMD, takes half the width."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if left.is_cpu and left.dtype == torch.float32 and has_onednn:
        result: Tensor = functional.linear(left.to_mkldnn(), right).to_dense()
        return result
    return left @ right.T


def _noise(rows: int, columns: int, device: torch.device) -> Tensor:
    """Normal numbers, the same everywhere: a solution does not depend on who computed before."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(device)


def _has_fast_bfloat16(features: Tensor) -> bool:
    if features.dtype != torch.float32:
        return features.dtype == torch.bfloat16
    if features.is_cuda:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(features.is_cpu and torch.cpu._is_avx512_bf16_supported())
