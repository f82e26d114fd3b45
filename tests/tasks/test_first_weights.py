import torch
from torch import nn

from sppnet.tasks.finetuning import begin_with_directions

SCALE = 0.25


def begun(rows: torch.Tensor, width: int) -> tuple[nn.Linear, nn.Linear]:
    fc6, fc7 = nn.Linear(rows.shape[1], width), nn.Linear(width, width)
    begin_with_directions(fc6, fc7, rows, scale=SCALE)
    return fc6, fc7


def vectors(num: int, dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num, dim, generator=generator) * torch.linspace(1, 9, dim)


@torch.no_grad()
def test_two_relus_hand_on_the_longest_directions_and_lose_nothing():
    rows = vectors(40, 12)
    fc6, fc7 = begun(rows, 2 * 12)
    out = fc7(fc6(rows).relu()).relu()
    told = out[:, :12] - out[:, 12:]  # with its sign again
    centred = SCALE * (rows - rows.mean(dim=0))
    # All twelve directions: a rotation, which keeps inner products.
    torch.testing.assert_close(told @ told.T, centred @ centred.T, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_few_outputs_have_the_directions_of_largest_variance():
    rows = vectors(40, 12)
    fc6, _ = begun(rows, 2 * 3)
    told = fc6(rows)[:, :3]
    largest = torch.linalg.svdvals(SCALE * (rows - rows.mean(dim=0)))[:3]
    torch.testing.assert_close(torch.linalg.svdvals(told), largest, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_outputs_beyond_what_few_windows_tell_apart_begin_at_nothing():
    rows = vectors(4, 12)
    fc6, fc7 = begun(rows, 11)
    assert torch.isfinite(fc6.weight).all()
    assert (fc6(rows)[:, 6:] == 0).all()
    assert torch.equal(fc7.weight, torch.eye(11))
