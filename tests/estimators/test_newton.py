"""A class whose step rounding has spoilt must not spoil the classes beside it, nor itself."""

import torch

from sppnet.estimators.margin_loss import squared_hinge
from sppnet.estimators.newton import Preconditioner, _direction
from sppnet.estimators.spaces import FeatureSpace


def test_a_class_without_a_gradient_gets_no_step_and_leaves_the_others_theirs():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=draw)
    signs = torch.where(torch.randn(2, 40, generator=draw) > 0, 1.0, -1.0)
    space = FeatureSpace(features, 1.0, exact=False)
    loss = squared_hinge(signs, torch.ones(2, 40))
    scores = space.settle(space.zeros(2))[1]
    duals = loss.duals(scores)
    gradient = -space.adjoint(duals * signs)
    gradient[0] = 0.0  # as if this class were at its optimum to the last digit: 0 / 0 in conjugate gradients
    goal = torch.full((2,), 1e-6, dtype=torch.float64)
    close = torch.tensor([True, True])

    class NeverExact(FeatureSpace.__base__):
        """The same space without a factor, so that it iterates."""

        def __getattr__(self, name):
            return getattr(space, name)

        zeros, adjoint, settle, dot = space.zeros, space.adjoint, space.settle, space.dot
        hessian, find_directions = space.hessian, space.find_directions

    step = _direction(Preconditioner(NeverExact(), 2), loss.curvature(duals), gradient, goal, close)
    assert torch.equal(step[0], torch.zeros_like(step[0]))
    hessian = torch.eye(7) + torch.cat([features, torch.ones(40, 1)], 1).T @ (
        loss.curvature(duals)[1][:, None] * torch.cat([features, torch.ones(40, 1)], 1)
    )
    expected = torch.linalg.solve(hessian, -gradient[1])
    assert torch.allclose(step[1], expected, atol=2e-2 * float(expected.norm()))
