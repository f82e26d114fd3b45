"""Primal and dual describe the same vectors, and 0.5 |g|^2 is the duality gap."""

import pytest
import torch

from sppnet.estimators.margin_loss import smoothed_hinge, squared_hinge
from sppnet.estimators.spaces import FeatureSpace, GramSpace, gram_matrix

FEATURES = torch.rand(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SIGNS = torch.tensor([[1, -1, 1, 0, -1, -1, 1], [-1, -1, 1, 1, -1, 0, 1]], dtype=torch.float64)
WEIGHTS = 0.7 * SIGNS.abs()
BIAS = 3.0


def test_the_gram_matrix_is_whole_across_blocks():
    features = torch.rand(2100, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram_matrix(features, 2.0), features @ features.T + 4)


@pytest.mark.parametrize("duals", [WEIGHTS, WEIGHTS * torch.arange(7)])
def test_both_spaces_give_the_same_scores_lengths_and_curvature(duals):
    primal, dual = FeatureSpace(FEATURES, BIAS, exact=False), GramSpace(gram_matrix(FEATURES, BIAS))
    left, right = primal.adjoint(duals), dual.adjoint(duals)
    torch.testing.assert_close(primal.settle(left)[1], dual.settle(right)[1])
    torch.testing.assert_close(primal.dot(left, left), dual.dot(right, right))
    images = []
    for space, vectors in ((primal, left), (dual, right)):
        product, curvature = space.hessian(WEIGHTS)
        images.append(space.settle(product(vectors, curvature))[1])
    torch.testing.assert_close(*images)


def test_directions_are_orthonormal_in_both_spaces():
    for space in (FeatureSpace(FEATURES, BIAS, exact=False), GramSpace(gram_matrix(FEATURES, BIAS))):
        found = space.find_directions(2)
        torch.testing.assert_close(
            found.expand @ found.project.T, torch.eye(2, dtype=torch.float64), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    "loss", [squared_hinge(SIGNS, WEIGHTS), smoothed_hinge(SIGNS, WEIGHTS, 2.0, WEIGHTS / 3)]
)
def test_half_the_squared_gradient_is_the_duality_gap(loss):
    space = FeatureSpace(FEATURES, BIAS, exact=False)
    vectors = torch.randn(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    vectors, scores = space.settle(vectors)
    duals = loss.duals(scores)
    image = space.adjoint(duals * loss.signs)
    primal = 0.5 * vectors.square().sum(1) + loss.value(scores, duals)
    quadratic = ((duals - loss.shift).square() / (2 * loss.slope)).nan_to_num(0).sum(1)
    dual = duals.sum(1) - quadratic - 0.5 * image.square().sum(1)
    torch.testing.assert_close(primal - dual, 0.5 * (vectors - image).square().sum(1))


def test_the_loss_is_the_hinge_away_from_its_corner():
    signs, weights = torch.ones(1, 3), torch.full((1, 3), 0.5)
    loss = smoothed_hinge(signs, weights, 10.0, torch.zeros(1, 3))
    scores = torch.tensor([[2.0, 1.5, 1.01]])  # beyond the margin
    assert loss.value(scores, loss.duals(scores)).item() == 0
    assert squared_hinge(signs, weights).value(
        -scores, squared_hinge(signs, weights).duals(-scores)
    ).item() == (pytest.approx(0.5 * (9 + 6.25 + 2.01**2)))
