"""Which windows fine-tuning, SVMs and box regression learn from (§4.1), against plain loops."""

import pytest
import torch

from sppnet.data.window_labels import (
    GroundTruth,
    assign_truth,
    label_for_finetuning,
    label_for_svm,
    windows_of_image,
)
from sppnet.errors import ConfigError

SVM = {"num_classes": 3, "negative_overlap": 0.3, "duplicate_overlap": 0.7, "difficult_positives": True}
FINETUNING = {"positive_overlap": 0.5, "background_overlap": 0.1}


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def truth_of(*objects):
    """Of (box, label, is_difficult)."""
    return GroundTruth(
        boxes(*(box for box, _, _ in objects)),
        torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
        torch.tensor([is_difficult for _, _, is_difficult in objects], dtype=torch.bool),
    )


def random_boxes(count, random):
    first = torch.randint(0, 8, (count, 2), generator=random)
    return torch.cat([first, first + torch.randint(0, 9, (count, 2), generator=random)], dim=1).float()


@pytest.fixture(params=range(12))
def case(request):
    """Proposals and truth: dense enough that all thresholds matter; sometimes none of one of them."""
    random = torch.Generator().manual_seed(request.param)
    num_proposals, num_objects = (0 if request.param == 10 else 40), (0 if request.param == 11 else 5)
    truth = GroundTruth(
        random_boxes(num_objects, random),
        torch.randint(0, 3, (num_objects,), generator=random),
        torch.rand(num_objects, generator=random) < 0.4,
    )
    return random_boxes(num_proposals, random), truth


def overlap(a, b):
    """IoU by counting pixels."""
    one, other = (
        {(x, y) for x in range(int(x1), int(x2) + 1) for y in range(int(y1), int(y2) + 1)}
        for x1, y1, x2, y2 in (a, b)
    )
    return len(one & other) / len(one | other)


def best_object(window, truth):
    """Largest overlap and the first object that has it."""
    overlaps = [overlap(window, box) for box in truth.boxes_xyxy.tolist()]
    return (max(overlaps), overlaps.index(max(overlaps))) if overlaps else (-1, None)


def test_finetuning_takes_positives_from_one_half_and_background_from_one_tenth(case):
    proposals, truth = case
    positives, negatives = [], []
    for row, window in enumerate(truth.boxes_xyxy.tolist() + proposals.tolist()):
        most, which = best_object(window, truth)
        if most >= 0.5:
            positives.append((row, window, int(truth.labels[which]) + 1))
        elif 0.1 <= most < 0.5:
            negatives.append((row, window, 0))
    labelled = label_for_finetuning(proposals, truth, **FINETUNING)
    found = zip(labelled.rows.tolist(), labelled.windows.tolist(), labelled.labels.tolist(), strict=True)
    assert list(found) == positives + negatives


@pytest.mark.parametrize("difficult_positives", [True, False])
def test_svms_tell_the_ground_truth_from_what_hardly_overlaps_it(case, difficult_positives):
    proposals, truth = case
    windows = truth.boxes_xyxy.tolist() + proposals.tolist()
    objects = list(zip(truth.boxes_xyxy.tolist(), truth.labels.tolist(), strict=True))
    expected = [[0] * 3 for _ in windows]
    for label in range(3):
        kept = []
        for row, window in enumerate(windows):
            is_far = all(overlap(window, box) < 0.3 for box, other in objects if other == label)
            if is_far and all(overlap(window, one) <= 0.7 for one in kept):
                kept.append(window)
                expected[row][label] = -1
    for row, (_, label) in enumerate(objects):
        if difficult_positives or not truth.is_difficult[row]:
            expected[row][label] = 1
    signed = label_for_svm(proposals, truth, **{**SVM, "difficult_positives": difficult_positives})
    assert signed.windows.tolist() == windows
    assert signed.signs.tolist() == expected


def test_box_regression_learns_from_windows_that_overlap_an_object_by_half(case):
    proposals, truth = case
    expected = []
    for row, window in enumerate(truth.boxes_xyxy.tolist() + proposals.tolist()):
        most, which = best_object(window, truth)
        if most >= 0.5:
            expected.append((row, window, truth.boxes_xyxy[which].tolist(), int(truth.labels[which])))
    assigned = assign_truth(proposals, truth, min_overlap=0.5)
    parts = (assigned.rows, assigned.windows, assigned.truth, assigned.labels)
    assert list(zip(*(part.tolist() for part in parts), strict=True)) == expected


def test_overlaps_on_the_threshold():
    # Of ten pixels: 5 are a positive, 1 is background, 3 is too much for a negative.
    truth = truth_of(([0, 0, 9, 0], 1, False))
    proposals = boxes([0, 0, 4, 0], [0, 0, 0, 0], [0, 0, 2, 0])
    assert label_for_finetuning(proposals, truth, **FINETUNING).labels.tolist() == [2, 2, 0, 0]
    assert label_for_svm(proposals, truth, **SVM).signs[:, 1].tolist() == [1, 0, -1, 0]
    assert assign_truth(proposals, truth, min_overlap=0.5).rows.tolist() == [0, 1]


def test_of_near_duplicates_the_first_proposal_stays():
    # 7 of 10 pixels in common are allowed, 8 are not; what was dropped drops nothing itself.
    proposals = boxes([0, 0, 9, 0], [0, 0, 7, 0], [0, 0, 6, 0], [0, 0, 9, 0])
    assert label_for_svm(proposals, truth_of(), **SVM).signs[:, 0].tolist() == [-1, 0, -1, 0]


def test_an_object_of_another_class_is_a_negative():
    truth = truth_of(([0, 0, 9, 9], 0, False), ([50, 50, 59, 59], 1, True))
    assert label_for_svm(boxes(), truth, **SVM).signs.tolist() == [[1, -1, -1], [-1, 1, -1]]


def test_an_image_of_difficult_objects_only_need_not_have_positives():
    truth = truth_of(([0, 0, 9, 9], 0, True))
    proposals = boxes([0, 0, 9, 8], [40, 40, 49, 49])
    signed = label_for_svm(proposals, truth, **{**SVM, "difficult_positives": False})
    assert signed.signs[:, 0].tolist() == [0, 0, -1]
    assert label_for_svm(proposals, truth, **SVM).signs[:, 0].tolist() == [1, 0, -1]
    assert label_for_finetuning(proposals, truth, **FINETUNING).labels.tolist() == [1, 1]


def test_an_image_without_objects_has_negatives_but_no_background():
    proposals = boxes([0, 0, 9, 9], [40, 40, 49, 49])
    assert label_for_svm(proposals, truth_of(), **SVM).signs.tolist() == [[-1] * 3] * 2
    assert label_for_finetuning(proposals, truth_of(), **FINETUNING).windows.shape == (0, 4)
    assert assign_truth(proposals, truth_of(), min_overlap=0.5).truth.shape == (0, 4)


def test_background_from_no_overlap_at_all_is_rcnns_rule():
    proposals = boxes([0, 0, 9, 9], [40, 40, 49, 49])
    for truth, expected in ((truth_of(), [0, 0]), (truth_of(([0, 0, 9, 8], 2, False)), [3, 3, 0])):
        labelled = label_for_finetuning(proposals, truth, positive_overlap=0.5, background_overlap=0.0)
        assert labelled.labels.tolist() == expected


def test_an_image_without_anything_has_no_windows():
    assert label_for_svm(boxes(), truth_of(), **SVM).signs.shape == (0, 3)
    assert label_for_finetuning(boxes(), truth_of(), **FINETUNING).rows.tolist() == []
    assert assign_truth(boxes(), truth_of(), min_overlap=0.5).truth.shape == (0, 4)


def test_a_box_that_is_none_is_named():
    with pytest.raises(ValueError, match="proposal 1 is"):
        windows_of_image(boxes([0, 0, 1, 1], [5, 0, 4, 9]), truth_of())


def test_overlaps_out_of_order_are_refused():
    with pytest.raises(ConfigError, match="background_overlap"):
        label_for_finetuning(boxes(), truth_of(), positive_overlap=0.1, background_overlap=0.5)
    with pytest.raises(ConfigError, match="duplicate_overlap"):
        label_for_svm(boxes(), truth_of(), **{**SVM, "duplicate_overlap": 1.5})
    with pytest.raises(ConfigError, match="min_overlap"):
        assign_truth(boxes(), truth_of(), min_overlap=0.0)
