import pytest
import torch

from sppnet.errors import ConfigError, DataError
from sppnet.metrics.proposal_recall import proposal_recall


def boxes(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def flags(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_an_overlap_of_exactly_one_half_counts():
    # 4 of 8 pixels; the second proposal has 3 of 9.
    result = proposal_recall(
        [boxes([0, 0, 3, 0]), boxes([5, 0, 7, 0])],
        [boxes([0, 0, 7, 0]), boxes([0, 0, 7, 0])],
        [flags(False), flags(False)],
        min_overlap=0.5,
    )
    assert result.found.tolist() == [1, 0]
    assert result.best_overlaps.tolist() == [1 / 2, 3 / 8]
    assert result.recall == 0.5


def test_the_best_proposal_counts_for_each_object_and_one_may_serve_two():
    result = proposal_recall(
        [boxes([0, 0, 9, 9], [50, 50, 59, 59], [0, 0, 9, 4])],
        [boxes([0, 0, 9, 8], [0, 0, 9, 9], [30, 30, 39, 39])],
        [flags(False, False, False)],
        min_overlap=0.9,
    )
    assert result.best_overlaps.tolist() == [0.9, 1.0, 0.0]
    assert (result.found.tolist(), result.objects.tolist()) == ([2], [3])


def test_difficult_objects_and_images_without_any_are_left_out():
    result = proposal_recall(
        [boxes([0, 0, 9, 9]), boxes([0, 0, 9, 9]), boxes()],
        [boxes([0, 0, 9, 9], [20, 20, 29, 29]), boxes(), boxes([0, 0, 9, 9])],
        [flags(False, True), flags(), flags(False)],
        min_overlap=0.5,
    )
    assert result.objects.tolist() == [1, 0, 1]
    assert result.found.tolist() == [1, 0, 0]
    assert result.recall == 0.5


def test_recall_of_nothing_is_not_a_number_to_report():
    result = proposal_recall([boxes()], [boxes([0, 0, 9, 9])], [flags(True)], min_overlap=0.5)
    with pytest.raises(DataError, match="no image has an object"):
        _ = result.recall


def test_an_overlap_that_everything_reaches_is_refused():
    with pytest.raises(ConfigError, match="min_overlap=0"):
        proposal_recall([], [], [], min_overlap=0.0)


@pytest.mark.parametrize(
    ("found", "there", "difficult", "message"),
    [
        ([boxes([0, 0, 9, 9])], [boxes([0, 0, 9, 9])], [torch.tensor([-1])], "neither bool nor 0 and 1"),
        ([boxes([0, 0, 9, 9])], [boxes([0, 0, 9, 9])], [flags(False, False)], "expected n x 4, n"),
        ([boxes([0, 0, 9, 9])], [boxes([0, 0, 9, 9])] * 2, [flags(False)] * 2, "of 1, 2 and 2 images"),
        ([boxes([9, 9, 0, 0])], [boxes([0, 0, 9, 9])], [flags(False)], "proposal 0 is"),
        ([boxes([0, 0, 9, 9])], [boxes([0, float("nan"), 9, 9])], [flags(False)], "object 0 is"),
    ],
)
def test_what_is_no_box_no_flag_or_not_one_each_is_refused(found, there, difficult, message):
    with pytest.raises(ValueError, match=message):
        proposal_recall(found, there, difficult, min_overlap=0.5)
