"""Detections against ground truth by the devkit's rules: by eye, and against its loop in plain Python."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from sppnet.data.window_labels import GroundTruth
from sppnet.errors import ConfigError, DataError, NonFiniteError
from sppnet.metrics.detection_ap import Detections, VocDetectionAP

# Boxes of 10 x 10 pixels: equal, 9 of 11 columns shared, exactly a half, a little less, none.
SAME, NEAR, HALF, LESS, FAR = (0, 0, 9, 9), (1, 0, 10, 9), (0, 0, 9, 19), (0, 0, 9, 20), (50, 50, 59, 59)


def detections(*rows):
    """Rows (box, score) or (box, score, label)."""
    return Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float32),
        torch.tensor([row[2] if len(row) > 2 else 0 for row in rows], dtype=torch.long),
    )


def truth(*rows):
    """Rows (box,), (box, difficult) or (box, difficult, label)."""
    return GroundTruth(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[2] if len(row) > 2 else 0 for row in rows], dtype=torch.long),
        torch.tensor([len(row) > 1 and row[1] for row in rows], dtype=torch.bool),
    )


def metric_of(*images, num_classes=1, interpolation="area"):
    """Images are pairs of detections and truth."""
    metric = VocDetectionAP(num_classes=num_classes, min_overlap=0.5, interpolation=interpolation)
    for number, image in enumerate(images):
        metric.update(number, *image)
    return metric


def ap_of(*images):
    return metric_of(*images).compute().item()


def test_the_object_is_found():
    assert ap_of((detections((SAME, 0.9)), truth((SAME,)))) == 1


def test_half_an_overlap_counts_with_both_ends_of_a_box_in_it():
    assert ap_of((detections((HALF, 0.9)), truth((SAME,)))) == 1
    assert ap_of((detections((LESS, 0.9)), truth((SAME,)))) == 0


def test_a_second_detection_of_an_object_is_wrong():
    # Found first, once more, and the other object last: precision 1, then 2/3.
    image = (detections((NEAR, 0.9), (SAME, 0.8), (FAR, 0.7)), truth((SAME,), (FAR,)))
    assert ap_of(image) == pytest.approx((1 + 2 / 3) / 2)


def test_what_finds_a_difficult_object_does_not_count_however_often():
    hard = (detections((FAR, 0.9), (FAR, 0.8), (SAME, 0.7)), truth((SAME,), (FAR, True)))
    assert ap_of(hard) == 1


def test_a_difficult_object_that_is_not_found_is_not_missed():
    assert ap_of((detections((SAME, 0.9)), truth((SAME,), (FAR, True)))) == 1


def test_a_detection_does_not_fall_back_on_its_second_best_object():
    # Both detections overlap the first object most; the second object, close by, stays unfound.
    image = (detections((SAME, 0.9), (SAME, 0.8)), truth((SAME,), (NEAR,)))
    assert ap_of(image) == 0.5


def test_of_objects_overlapped_equally_the_first_is_meant():
    image = (detections((SAME, 0.9)), truth((SAME, True), (SAME,)))
    assert ap_of(image) == 0


def test_an_object_is_found_in_its_own_image_and_class_only():
    elsewhere = ((detections((SAME, 0.9)), truth()), (detections(), truth((SAME,))))
    assert ap_of(*elsewhere) == 0
    other = (detections((SAME, 0.9, 1)), truth((SAME, False, 0)))
    assert metric_of(other, num_classes=2).compute().nan_to_num(-1).tolist() == [0, -1]


def test_scores_rank_across_images():
    images = ((detections((FAR, 0.9)), truth((SAME,))), (detections((SAME, 0.5)), truth((SAME,))))
    assert ap_of(*images) == 0.25


def test_eleven_points_are_vocs_of_2007_and_the_area_that_of_2010():
    image = (detections((SAME, 0.9)), truth((SAME,), (FAR,)))
    assert metric_of(image, interpolation="11point").compute().item() == pytest.approx(6 / 11)
    assert metric_of(image, interpolation="area").compute().item() == 0.5


def test_the_curve_can_be_drawn():
    image = (detections((SAME, 0.9), (SAME, 0.8), (FAR, 0.7)), truth((SAME,), (FAR,), (LESS, True)))
    (curve,) = metric_of(image).curves()
    assert curve.recall.tolist() == [0.5, 1]
    assert curve.precision.tolist() == pytest.approx([1, 2 / 3])
    assert curve.scores.tolist() == pytest.approx([0.9, 0.7])
    assert curve.num_positives == 2


def test_classes_without_objects_that_count_have_no_ap():
    image = (detections((SAME, 0.9, 2)), truth((SAME, True, 1)))
    assert metric_of(image, num_classes=3).compute().isnan().all()


@pytest.mark.filterwarnings("ignore:The ..compute.. method of metric")
def test_no_images_at_all_is_no_ap():
    assert metric_of(num_classes=3).compute().isnan().all()
    assert metric_of((detections(), truth()), num_classes=3).compute().isnan().all()


def test_an_image_that_comes_again_counts_once():
    first = (detections((SAME, 0.9)), truth((SAME,), (FAR,)))
    metric = metric_of(first, (detections((FAR, 0.8)), truth()), first)
    metric.update(0, *first)
    once = metric_of(first, (detections((FAR, 0.8)), truth()), first)
    assert metric.compute().item() == once.compute().item() == 0.5


def test_an_image_in_pieces_is_refused():
    metric = metric_of((detections((SAME, 0.9)), truth((SAME,))))
    metric.update(0, detections(), truth((SAME,)))
    with pytest.raises(DataError, match="image 0 came twice with different numbers"):
        metric.compute()


@pytest.mark.parametrize(
    "image", [(detections((SAME, 0.9, 1)), truth()), (detections(), truth((SAME, False, -1)))]
)
def test_labels_beyond_the_classes_are_refused(image):
    with pytest.raises(DataError, match="expected 0 to 0"):
        ap_of(image)


@pytest.mark.parametrize("row", [(SAME, math.nan), ((0, 0, math.nan, 9), 0.5), ((0, 0, math.inf, 9), 0.5)])
def test_what_is_not_finite_is_refused(row):
    with pytest.raises(NonFiniteError, match="scores or boxes of detections"):
        ap_of((detections(row), truth((SAME,))))


@pytest.mark.parametrize("wrong", [{"min_overlap": 0.0}, {"min_overlap": 50.0}])
def test_a_setting_that_cannot_be_is_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        VocDetectionAP(**{"num_classes": 1, "min_overlap": 0.5, "interpolation": "area", **wrong})


def overlap_of(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(-1)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return Fraction(width * height, sum(areas) - width * height)


def devkit_curve(images, label):
    """VOCevaldet.m for one class: recall and precision after every detection, and the positives."""
    objects = [
        [
            (box, hard)
            for box, kind, hard in zip(*map(torch.Tensor.tolist, wanted), strict=True)
            if kind == label
        ]
        for _, wanted in images
    ]
    num_positives = sum(not hard for of_image in objects for _, hard in of_image)
    found = [
        (score, number, box)
        for number, (given, _) in enumerate(images)
        for box, score, kind in zip(*map(torch.Tensor.tolist, given), strict=True)
        if kind == label
    ]
    used = set()
    tp = fp = 0
    points = []
    for _, number, box in sorted(found, key=lambda one: -one[0]):
        best, chosen = Fraction(-2), None
        for j, (other, _) in enumerate(objects[number]):
            if (overlap := overlap_of([int(v) for v in box], [int(v) for v in other])) > best:
                best, chosen = overlap, j
        if best < Fraction(1, 2):
            fp += 1
        elif not objects[number][chosen][1]:
            if (number, chosen) in used:
                fp += 1
            else:
                used.add((number, chosen))
                tp += 1
        if tp + fp and num_positives:
            points.append((Fraction(tp, num_positives), Fraction(tp, tp + fp)))
    return points, num_positives


def devkit_ap(images, label, interpolation):
    points, num_positives = devkit_curve(images, label)
    if num_positives == 0:
        return math.nan
    if interpolation == "11point":
        best = [max((p for r, p in points if r >= Fraction(t, 10)), default=Fraction(0)) for t in range(11)]
        return float(sum(best) / 11)
    steps = sorted({r for r, _ in points if r > 0})
    widths = [after - before for before, after in zip([Fraction(0), *steps], steps, strict=False)]
    return float(
        sum(
            (w * max(p for r, p in points if r >= s) for w, s in zip(widths, steps, strict=True)), Fraction(0)
        )
    )


def random_image(random, num_classes):
    """Small integers, so that ties, duplicates and overlaps of one half are common."""
    n, m = int(random.integers(0, 12)), int(random.integers(0, 5))
    corners = random.integers(0, 6, (m, 2))
    there = np.concatenate([corners, corners + random.integers(0, 6, (m, 2))], axis=1)
    kinds = random.integers(num_classes, size=m)
    # Every detection is near an object, most of them of its class; without objects, anywhere.
    near = random.integers(m, size=n) if m else np.zeros(n, dtype=int)
    boxes = (there[near] if m else np.zeros((n, 4))) + random.integers(-1, 2, (n, 4))
    labels = np.where(random.random(n) < 0.7, kinds[near] if m else 0, random.integers(num_classes, size=n))
    return (
        Detections(
            torch.from_numpy(
                np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2])], axis=1)
            ).float(),
            torch.from_numpy(random.integers(-4, 4, n) / 4).float(),
            torch.from_numpy(labels),
        ),
        GroundTruth(
            torch.from_numpy(there).float(), torch.from_numpy(kinds), torch.from_numpy(random.random(m) < 0.3)
        ),
    )


@pytest.mark.parametrize("interpolation", ["11point", "area"])
def test_random_images_equal_the_devkits_loop(interpolation):
    random = np.random.default_rng(2)
    num_found = 0
    for _ in range(200):
        images = [random_image(random, 3) for _ in range(int(random.integers(1, 6)))]
        metric = metric_of(*images, num_classes=3, interpolation=interpolation)
        expected = [devkit_ap(images, label, interpolation) for label in range(3)]
        assert metric.compute().tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
        for label, curve in enumerate(metric.curves()):
            points, num_positives = devkit_curve(images, label)
            rises = [p for before, p in zip([(0, 0), *points], points, strict=False) if p[0] > before[0]]
            assert curve.num_positives == num_positives
            assert curve.precision.tolist() == [float(p) for _, p in rises]
            assert curve.recall.tolist() == [float(r) for r, _ in rises]
            num_found += len(rises)
    assert num_found > 300


def test_the_order_in_which_images_come_is_of_no_matter():
    random = np.random.default_rng(3)
    images = [random_image(random, 3) for _ in range(20)]
    straight = metric_of(*images, num_classes=3)
    shuffled = metric_of(num_classes=3)
    for number in [*random.permutation(20).tolist(), 4, 11]:
        shuffled.update(number, *images[number])
    assert shuffled.compute().tolist() == straight.compute().tolist()


def test_one_class_has_a_vector_of_one_number():
    assert metric_of((detections((SAME, 0.9)), truth((SAME,)))).compute().tolist() == [1]


INVERTED, UNKNOWN = (9, 9, 0, 0), (0, 0, 9, math.nan)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ((detections((INVERTED, 0.9)), truth((SAME,))), "detections are inverted"),
        ((detections((SAME, 0.9)), truth((INVERTED,))), "object 0 is"),
        ((detections((SAME, 0.9)), truth((UNKNOWN,))), "object 0 is"),
    ],
)
def test_boxes_that_are_none_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        ap_of(image)


@pytest.mark.parametrize("label", [0.9, 2**32, float("nan")])
def test_a_label_is_never_cut_to_fit(label):
    box, flags = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([False])
    found = Detections(box, torch.ones(1), torch.tensor([label]))
    there = GroundTruth(box, torch.tensor([label]), flags)
    metric = VocDetectionAP(num_classes=1, min_overlap=0.5, interpolation="area")
    with pytest.raises(ValueError, match="labels of detections"):
        metric.update(0, found, there._replace(labels=torch.tensor([0])))
    with pytest.raises(ValueError, match="labels of objects"):
        metric.update(0, found._replace(labels=torch.tensor([0])), there)
