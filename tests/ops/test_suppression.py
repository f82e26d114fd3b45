"""Greedy suppression, against the same sentence in plain Python."""

import pytest
import torch
import torchvision

from sppnet.errors import NonFiniteError
from sppnet.ops import suppression
from sppnet.ops.suppression import suppress, suppress_per_class


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 200
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 120], dim=1).round()


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def plain_python(boxes, scores, max_overlap):
    boxes, scores = boxes.tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[i], boxes[k]) <= max_overlap for k in kept):
            kept.append(i)
    return kept


@pytest.fixture(params=["compiled", "numpy"])
def way(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(suppression, "load_kernels", lambda: None)
    elif suppression.load_kernels() is None:
        pytest.skip("numba is not installed")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("max_overlap", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, 31, 200])
def test_the_greedy_rule(count, max_overlap):
    generator = torch.Generator().manual_seed(count)
    boxes = random_boxes(count, generator)
    scores = (torch.rand(count, generator=generator) * 50).round()  # with ties
    assert suppress(boxes, scores, max_overlap).tolist() == plain_python(boxes, scores, max_overlap)


@pytest.mark.usefixtures("way")
def test_a_box_that_overlaps_by_exactly_the_limit_is_kept():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 3.0, 0.0]])
    assert suppress(boxes, torch.tensor([3.0, 2.0, 1.0]), 0.3).tolist() == [0, 1]


@pytest.mark.usefixtures("way")
def test_both_ends_of_a_box_count():
    # 2 of 3 pixels shared; without the + 1 it would be 1 of 2.
    boxes = torch.tensor([[0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert suppress(boxes, torch.tensor([2.0, 1.0]), 0.6).tolist() == [0]


@pytest.mark.usefixtures("way")
def test_torchvision_agrees_on_boxes_whose_ends_are_outside():
    generator = torch.Generator().manual_seed(9)
    boxes, scores = random_boxes(500, generator).double(), torch.rand(500, generator=generator).double()
    ends = boxes + torch.tensor([0, 0, 1, 1])
    assert torch.equal(suppress(boxes, scores, 0.3), torchvision.ops.nms(ends, scores, 0.3))


@pytest.mark.usefixtures("way")
def test_classes_are_suppressed_by_themselves_and_low_scores_left_out():
    generator = torch.Generator().manual_seed(10)
    boxes, scores = random_boxes(120, generator), torch.randn(120, 4, generator=generator)
    results = suppress_per_class(boxes, scores, score_above=0.5, max_overlap=0.3)
    for label, kept in enumerate(results):
        rows = (scores[:, label] > 0.5).nonzero()[:, 0]
        expected = rows[suppress(boxes[rows], scores[rows, label], 0.3)]
        assert torch.equal(kept, expected)


def test_every_class_may_have_moved_the_boxes():
    generator = torch.Generator().manual_seed(11)
    boxes = torch.stack([random_boxes(50, generator) for _ in range(3)], dim=1)
    scores = torch.randn(50, 3, generator=generator)
    results = suppress_per_class(boxes, scores, score_above=-10.0, max_overlap=0.3)
    for label, kept in enumerate(results):
        assert torch.equal(kept, suppress(boxes[:, label], scores[:, label], 0.3))


def test_a_class_without_a_high_score_keeps_nothing():
    results = suppress_per_class(torch.zeros(3, 4), torch.zeros(3, 2), score_above=0.0, max_overlap=0.3)
    assert [kept.tolist() for kept in results] == [[], []]


def test_a_score_that_is_nan_is_counted():
    with pytest.raises(NonFiniteError, match="1 of 2 scores are NaN"):
        suppress(torch.zeros(2, 4), torch.tensor([1.0, torch.nan]), 0.3)


def test_an_inverted_box_is_named():
    with pytest.raises(ValueError, match="box 0 is"):
        suppress(torch.tensor([[5.0, 0.0, 2.0, 3.0]]), torch.zeros(1), 0.3)


def test_an_overlap_in_percent_is_refused():
    with pytest.raises(ValueError, match="max_overlap=30"):
        suppress(torch.zeros(1, 4), torch.zeros(1), 30.0)
