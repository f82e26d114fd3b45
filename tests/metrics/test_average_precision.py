"""AP by the devkit's rules, on rankings short enough to check by eye."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from sppnet.errors import ConfigError, DataError, NonFiniteError
from sppnet.metrics.average_precision import (
    AveragePrecision,
    area_ap,
    best_first,
    eleven_point_ap,
    mean_ap,
    trace_curve,
)


def ap_of(labels, scores=None, **more):
    """AP of one class; by default the labels are in the order of the ranking."""
    metric = AveragePrecision(num_classes=1)
    scores = scores or range(len(labels), 0, -1)
    metric.update(
        torch.tensor([[float(s)] for s in scores]), torch.tensor([[label] for label in labels]), **more
    )
    return metric.compute().item()


def devkit_ap(labels, scores):
    """VOCevalcls.m, line by line, in exact fractions."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    tp = fp = 0
    points = []
    num_positives = sum(label > 0 for label in labels)
    if num_positives == 0:
        return math.nan
    for i in order:
        tp += labels[i] > 0
        fp += labels[i] < 0
        if tp + fp:
            points.append((Fraction(tp, num_positives), Fraction(tp, tp + fp)))
    ap = Fraction(0)
    for t in range(11):
        ap += max((p for recall, p in points if recall >= Fraction(t, 10)), default=Fraction(0)) / 11
    return float(ap)


def test_a_perfect_ranking_has_an_ap_of_1():
    assert ap_of([1, 1, -1, -1]) == 1


def test_right_wrong_right():
    # Precision 1 up to a recall of 1/2 (six of the eleven points), 2/3 beyond.
    assert ap_of([1, -1, 1]) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_precision_is_the_best_one_further_on():
    # Precision 1/2 at the first, 2/3 at the second positive: 2/3 everywhere.
    assert ap_of([-1, 1, 1]) == pytest.approx(2 / 3)


def test_only_difficult_ones_count_neither_way():
    assert ap_of([0, 1, 0, -1, 1, 0]) == ap_of([1, -1, 1])


def test_a_class_without_positives_has_no_ap():
    assert math.isnan(ap_of([-1, 0, -1]))


def test_three_of_ten_reach_a_recall_of_three_tenths():
    ranking = trace_curve(np.array([1] * 3, np.int8), np.zeros(3, np.float32), 10)
    assert eleven_point_ap(ranking) == pytest.approx(4 / 11)


def test_area_under_right_wrong_right():
    curve = trace_curve(np.array([1, -1, 1], np.int8), np.zeros(3, np.float32), 2)
    assert area_ap(curve) == pytest.approx((1 + 2 / 3) / 2)


def test_equal_scores_keep_their_order():
    assert ap_of([1, -1], [0.5, 0.5]) == 1
    assert ap_of([-1, 1], [0.5, 0.5]) == 0.5


def test_numbered_images_are_in_the_order_of_their_numbers_and_count_once():
    ids = torch.tensor([7, 3, 7])
    assert ap_of([-1, 1, -1], [0.5, 0.5, 0.5], ids=ids) == 1
    assert ap_of([1, -1, 1], [0.5, 0.5, 0.5], ids=ids) == 0.5


def test_the_fast_order_is_the_stable_order():
    random = np.random.default_rng(0)
    extreme = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38], np.float32)
    for scores in (random.normal(size=1000).astype(np.float32), random.choice(extreme, 1000)):
        assert best_first(scores).tolist() == np.argsort(-scores, kind="stable").tolist()


def test_random_cases_equal_the_devkits_loop():
    random = np.random.default_rng(1)
    for _ in range(300):
        n = int(random.integers(1, 40))
        labels = [-1, *random.choice([-1, 0, 1], n).tolist()]
        scores = random.integers(0, 10, n + 1).tolist()
        assert ap_of(labels, scores) == pytest.approx(devkit_ap(labels, scores), abs=1e-12, nan_ok=True)


def test_batches_and_classes_are_put_together():
    metric = AveragePrecision(num_classes=2)
    metric.update(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([[1, -1], [-1, -1]]))
    metric.update(torch.tensor([[0.7, 0.3]]), torch.tensor([[1, 1]]))
    assert metric.compute().tolist() == pytest.approx([(6 + 5 * 2 / 3) / 11, 1])
    assert metric.curves()[0].precision.tolist() == pytest.approx([1, 2 / 3])
    assert metric.curves()[0].recall.tolist() == [0.5, 1]


@pytest.mark.filterwarnings("ignore:The ..compute.. method of metric")
def test_nothing_seen_is_no_ap_and_reset_forgets():
    metric = AveragePrecision(num_classes=2)
    metric.update(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.int8))
    assert metric.compute().tolist() == [1, 1]
    metric.reset()
    assert metric.compute().isnan().all()


def test_the_mean_leaves_out_what_has_no_positives_and_says_so():
    mean = mean_ap(torch.tensor([0.5, math.nan, 1.0]))
    assert (mean.value, str(mean)) == (0.75, "0.7500 over 2 of 3 classes")
    assert math.isnan(mean_ap(torch.tensor([math.nan])).value)


def test_other_labels_are_refused():
    with pytest.raises(DataError, match="a label is 2; expected -1, 0 and 1"):
        ap_of([0, 2])


def test_a_score_that_is_nan_is_refused_with_its_class():
    metric = AveragePrecision(num_classes=2)
    metric.update(torch.tensor([[0.0, math.nan]]), torch.tensor([[1, 1]]))
    with pytest.raises(NonFiniteError, match=r"classes \[1\] are NaN"):
        metric.compute()


def test_flags_and_unsigned_numbers_mean_absent_where_they_are_0():
    scores, present = torch.rand(20, 3), torch.rand(20, 3) > 0.5
    found = []
    for labels in (present, present.to(torch.uint8), 2 * present.int() - 1):
        metric = AveragePrecision(num_classes=3)
        metric.update(scores, labels)
        found.append(metric.compute().tolist())
    assert found[0] == found[1] == found[2]


def test_zeros_without_a_minus_one_are_refused_rather_than_left_out():
    metric = AveragePrecision(num_classes=2)
    metric.update(torch.rand(4, 2), torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]]))
    with pytest.raises(DataError, match="counts neither way"):
        metric.compute()


def test_scores_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="expected a row an image"):
        AveragePrecision(num_classes=2).update(torch.rand(5, 3), torch.ones(5, 3, dtype=torch.int8))


def test_one_class_has_a_vector_of_one_number():
    metric = AveragePrecision(num_classes=1)
    metric.update(torch.tensor([[0.9], [0.1]]), torch.tensor([[1], [-1]]))
    assert metric.compute().tolist() == [1]


def test_scores_that_only_float64_tells_apart_are_ranked():
    scores = 1 + 1e-12 * torch.tensor([[3.0], [2.0], [1.0]], dtype=torch.float64)
    metric = AveragePrecision(num_classes=1)
    metric.update(scores, torch.tensor([[-1], [-1], [1]]))
    assert metric.compute().item() == pytest.approx(1 / 3)


def test_a_column_of_0_and_1_among_signs_is_refused():
    metric = AveragePrecision(num_classes=2)
    metric.update(torch.rand(3, 2), torch.tensor([[1, 1], [-1, 0], [1, 0]]))
    with pytest.raises(DataError, match="class 1 are 0 and 1"):
        metric.compute()


def test_numbers_of_images_and_classes_are_whole_and_in_range():
    with pytest.raises(ConfigError, match="num_classes=0"):
        AveragePrecision(num_classes=0)
    with pytest.raises(ValueError, match="0 or more"):
        AveragePrecision(num_classes=1).update(torch.rand(1, 1), torch.tensor([[1]]), torch.tensor([-4]))
    with pytest.raises(DataError, match="a label is 255"):
        AveragePrecision(num_classes=1).update(torch.rand(1, 1), torch.tensor([[255]], dtype=torch.uint8))
