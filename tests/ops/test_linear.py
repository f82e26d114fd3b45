"""Fully connected layers by another library than functional.linear uses."""

import pytest
import torch
from torch.nn import functional

from sppnet.ops.linear import linear_relu

DRAW = torch.Generator().manual_seed(0)
ROWS, WEIGHT, BIAS = (torch.randn(*shape, generator=DRAW) for shape in ((7, 90), (5, 90), (5,)))


@pytest.mark.parametrize("rows", [ROWS, ROWS[:0], ROWS[::2], ROWS.double()], ids=str)
@torch.inference_mode()
def test_the_numbers_are_those_of_the_definition(rows):
    expected = (rows.double() @ WEIGHT.double().T + BIAS.double()).clamp(min=0)
    found = linear_relu(rows, WEIGHT.to(rows.dtype), BIAS.to(rows.dtype))
    assert found.dtype == rows.dtype
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_nan_stays_nan():
    rows = ROWS.clone()
    rows[3, 5] = torch.nan
    assert linear_relu(rows, WEIGHT, BIAS)[3].isnan().all()


def test_gradients_are_those_of_the_stock_layer():
    weight, stock = WEIGHT.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    linear_relu(ROWS, weight, BIAS).sum().backward()
    functional.linear(ROWS, stock, BIAS).relu().sum().backward()
    assert torch.equal(weight.grad, stock.grad)
