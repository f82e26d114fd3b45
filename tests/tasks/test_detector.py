"""From scored windows to objects: against loops in plain Python, and two detectors together (§4.1, §4.4).

AP itself is compared with the devkit's loop in tests/metrics/test_detection_ap.py.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sppnet.estimators.box_regressor import BoxRegressor
from sppnet.metrics.detection_ap import Detections
from sppnet.tasks.detector import (
    Detector,
    Machines,
    Picture,
    Regressors,
    Suppression,
    detect,
    find_objects,
    judged,
    move_objects,
    pack,
    suppress_again,
    unpack,
)
from sppnet.windows.source import WindowSource

CLASSES, FEATURES = 3, 5
IMAGE = (40, 50)  # height and width
USUAL = Suppression(score_above=-1.5, max_overlap=0.3, max_per_image=100)
RULES = [
    USUAL,
    Suppression(score_above=-1.0, max_overlap=0.0, max_per_image=100),
    Suppression(score_above=-1.5, max_overlap=0.5, max_per_image=3),
]


def random_windows(random, number):
    """Whole pixels, few of them, so that overlaps of exactly 3/10 or 1/2 and equal windows are common."""
    first = random.integers(0, [40, 30], (number, 2))
    return torch.from_numpy(np.concatenate([first, first + random.integers(0, 10, (number, 2))], 1)).float()


def random_scores(random, number):
    """In quarters, so that ties are common."""
    return torch.from_numpy(random.integers(-8, 8, (number, CLASSES)) / 4).float()


def random_regressors(random):
    """One of every class, the last without samples."""
    made = []
    for label in range(CLASSES):
        number = 0 if label == CLASSES - 1 else 20
        windows = random_windows(random, number) + torch.tensor([0.0, 0, 9, 9])
        shifts = torch.from_numpy(random.normal(0, 4, (number, 2))).float().repeat(1, 2)
        features = torch.from_numpy(random.random((number, FEATURES))).float()
        made.append(BoxRegressor(ridge=0.1).fit(features, windows, windows + shifts))
    return Regressors(tuple(made), torch.tensor(0.5))


def overlap(a, b):
    a, b = ([Fraction(end) for end in box] for box in (a, b))
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return shared / (sum(areas) - shared)


def slowly(boxes, scores, labels, rules):
    """Rows kept, class by class, the best first: one box after the other, exactly."""
    limit = Fraction(str(rules.max_overlap))
    result = []
    for label in range(CLASSES):
        rows = [row for row, one in enumerate(labels) if one == label and scores[row] > rules.score_above]
        kept = []
        for row in sorted(rows, key=lambda row: (-scores[row], row)):
            if all(overlap(boxes[row], boxes[other]) <= limit for other in kept):
                kept.append(row)
        result += kept[: rules.max_per_image]
    return result


def as_lists(found):
    return [column.tolist() for column in found]


def chosen(boxes, scores, labels, rows):
    return [[column[row] for row in rows] for column in (boxes, scores, labels)]


def test_scores_are_of_scaled_vectors_and_the_bias_is_not_scaled():
    machines = Machines(torch.tensor([[1.0, 2], [0, -1]]), torch.tensor([0.5, -0.5]), torch.tensor(10.0))
    assert machines.scores(torch.tensor([[1.0, 1], [0, 0]])).tolist() == [[30.5, -10.5], [0.5, -0.5]]


@pytest.mark.parametrize("rules", RULES)
def test_objects_are_those_of_the_slow_loop(rules):
    random = np.random.default_rng(0)
    num_found = 0
    for _ in range(60):
        number = int(random.integers(0, 30))
        windows, scores = random_windows(random, number), random_scores(random, number)
        found, rows = find_objects(windows, scores, rules)
        boxes = windows.tolist() * CLASSES
        flat, labels = scores.T.flatten().tolist(), [label for label in range(CLASSES) for _ in range(number)]
        expected = slowly(boxes, flat, labels, rules)
        assert as_lists(found) == chosen(boxes, flat, labels, expected)
        assert rows.tolist() == [row % number for row in expected]
        num_found += len(expected)
    assert num_found > 100


def test_a_window_can_show_objects_of_several_classes():
    windows = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]])
    found, rows = find_objects(windows, torch.tensor([[1.0, -9, 2], [0.5, -9, 3]]), USUAL)
    assert (found.labels.tolist(), rows.tolist(), found.scores.tolist()) == ([0, 2], [0, 1], [1, 3])


def moved_by_hand(regressors, found, rows, image_size):
    """Every box by itself, by the regressor of its class, into the image."""
    height, width = image_size
    boxes = []
    for box, label, row in zip(found.boxes_xyxy, found.labels.tolist(), rows, strict=True):
        regressor = regressors.of_class[label]
        x1, y1, x2, y2 = regressor.predict(regressors.feature_scale * row[None], box[None])[0].tolist()
        limits = zip((x1, y1, x2, y2), (width, height) * 2, strict=True)
        boxes.append([min(max(end, 0.0), limit - 1.0) for end, limit in limits])
    return boxes


@pytest.mark.parametrize("rules", RULES)
def test_boxes_move_into_the_image_and_are_suppressed_again(rules):
    random = np.random.default_rng(1)
    num_lost = num_clipped = 0
    for _ in range(40):
        regressors = random_regressors(random)
        number = int(random.integers(0, 30))
        windows = random_windows(random, number)
        found, where = find_objects(windows, random_scores(random, number), rules)
        rows = torch.from_numpy(random.random((number, FEATURES)).astype(np.float32))[where]
        boxes = moved_by_hand(regressors, found, rows, IMAGE)
        moved = suppress_again(move_objects(found, rows, regressors, IMAGE), CLASSES, rules)
        scores, labels = found.scores.tolist(), found.labels.tolist()
        expected = slowly(boxes, scores, labels, rules)
        torch.testing.assert_close(
            moved.boxes_xyxy, torch.tensor([boxes[row] for row in expected]).reshape(-1, 4), rtol=0, atol=1e-4
        )
        assert as_lists(moved)[1:] == chosen(boxes, scores, labels, expected)[1:]
        num_lost += len(labels) - len(expected)
        num_clipped += sum(box[0] == 0 or box[1] == 0 or box[2] == 49 or box[3] == 39 for box in boxes)
    assert num_clipped > 0
    assert num_lost > 0 or rules.max_per_image == 3


class GivenRows(WindowSource):
    """Vectors of an image's windows that the test has chosen, by the name of the image and the window."""

    def __init__(self, rows: dict[str, torch.Tensor], windows: dict[str, torch.Tensor]):
        self.of_image, self.windows = rows, windows
        self.dim = next(iter(rows.values())).shape[1]

    def compute(self, out, image, windows, scales, watch):
        known = self.windows[image.name]
        places = [known.tolist().index(window) for window in windows.tolist()]
        out.copy_(self.of_image[image.name][places])


def random_detector(random, windows, *, is_moved):
    """One whose scores are in quarters: its SVMs read the vectors off."""
    scores = {name: random_scores(random, len(some)) for name, some in windows.items()}
    vectors = {
        name: torch.from_numpy(random.random((len(some), FEATURES)).astype(np.float32))
        for name, some in windows.items()
    }
    machines = Machines(torch.eye(CLASSES), torch.zeros(CLASSES), torch.tensor(1.0))
    regressors = random_regressors(random) if is_moved else None
    sources = (GivenRows(scores, windows), GivenRows(vectors, windows))
    return Detector(machines, regressors, *sources), scores, vectors


def different_windows(random, number):
    return torch.unique(random_windows(random, number), dim=0)


def pictures_of(windows):
    return [Picture(Path(name), some, IMAGE) for name, some in windows.items()]


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("rules", RULES)
def test_together_detectors_find_what_the_slow_loop_keeps_of_all_scored_windows(rules, is_moved):
    """Paper §4.4: suppression "on the union of the two sets of candidate windows (with their scores)"."""
    if is_moved:  # the last digits of where a box moves decide nothing
        rules = rules._replace(max_overlap=0.317)
    random = np.random.default_rng(2)
    windows_of = [
        {f"{image}": different_windows(random, int(random.integers(0, 20))) for image in range(6)}
        for _ in range(2)
    ]
    made = [random_detector(random, windows, is_moved=is_moved) for windows in windows_of]
    pictures = [pictures_of(windows) for windows in windows_of]
    together = detect([one for one, *_ in made], pictures, rules, workers=2)
    for image, found in enumerate(together):
        name = f"{image}"
        boxes, scores, labels, owners = [], [], [], []
        for label in range(CLASSES):  # as the rows of `find_objects` come: class by class, member by member
            for owner, (windows, (_, its, _)) in enumerate(zip(windows_of, made, strict=True)):
                boxes += windows[name].tolist()
                scores += its[name][:, label].tolist()
                labels += [label] * len(windows[name])
                owners += [(owner, row) for row in range(len(windows[name]))]
        kept = slowly(boxes, scores, labels, rules)
        expected = chosen(boxes, scores, labels, kept)
        if is_moved:
            moved = []
            for row in kept:
                owner, window = owners[row]
                detector, _, vectors = made[owner]
                one = Detections(torch.tensor([boxes[row]]), torch.zeros(1), torch.tensor([labels[row]]))
                moved += moved_by_hand(detector.regressors, one, vectors[name][window : window + 1], IMAGE)
            scores, labels = expected[1:]
            expected = chosen(
                moved, scores, labels, slowly(moved, scores, labels, rules._replace(score_above=-9))
            )
        torch.testing.assert_close(
            found.boxes_xyxy, torch.tensor(expected[0]).reshape(-1, 4), rtol=0, atol=1e-4
        )
        assert as_lists(found)[1:] == expected[1:]


def test_a_window_that_its_own_detector_suppressed_is_found_once_its_rival_is_suppressed():
    left, middle, right = [0.0, 0, 9, 9], [5.0, 0, 14, 9], [10.0, 0, 19, 9]  # neighbours overlap by a third
    machines = Machines(torch.eye(1), torch.zeros(1), torch.tensor(1.0))
    pictures, detectors = [], []
    for windows, scores in (([left, middle], [1.0, 2.0]), ([right], [3.0])):
        boxes = {"0": torch.tensor(windows)}
        source = GivenRows({"0": torch.tensor(scores)[:, None]}, boxes)
        detectors.append(Detector(machines, None, source, source))
        pictures.append(pictures_of(boxes))
    (alone,) = detect(detectors[:1], pictures[:1], USUAL, workers=1)
    assert as_lists(alone) == [[middle], [2.0], [0]]
    (together,) = detect(detectors, pictures, USUAL, workers=1)
    assert as_lists(together) == [[right, left], [3.0, 1.0], [0, 0]]


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("rules", RULES)
def test_a_detector_combined_with_itself_finds_what_it_found(rules, is_moved):
    random = np.random.default_rng(3)
    windows = {f"{image}": different_windows(random, int(random.integers(0, 30))) for image in range(6)}
    detector, _, _ = random_detector(random, windows, is_moved=is_moved)
    alone = list(detect([detector], [pictures_of(windows)], rules, workers=1))
    for times in (2, 3):
        together = detect([detector] * times, [pictures_of(windows)] * times, rules, workers=1)
        for ours, theirs in zip(together, alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_regressors_come_back_from_their_tensors():
    random = np.random.default_rng(4)
    regressors = random_regressors(random)
    again = Regressors.from_state(regressors.state())
    boxes, labels = random_windows(random, 30), torch.arange(30) % CLASSES
    rows = torch.from_numpy(random.random((30, FEATURES))).float()
    assert torch.equal(again.moved(rows, boxes, labels), regressors.moved(rows, boxes, labels))
    assert [one.status_ for one in again.of_class] == ["fitted", "fitted", "no samples"]
    assert torch.equal(again.moved(rows, boxes, labels)[2::3], boxes[2::3])


def random_detections(random, number):
    windows, scores = random_windows(random, number), random_scores(random, number)
    return Detections(windows, scores[:, 0], torch.from_numpy(random.integers(0, CLASSES, number)))


def test_detections_come_back_from_a_file_image_by_image():
    random = np.random.default_rng(5)
    found = [random_detections(random, number) for number in (0, 4, 0, 0, 7, 1, 0)]
    packed = pack(found)
    assert {name: len(part) for name, part in packed.items()} == {
        "counts": 7, "boxes_xyxy": 12, "scores": 12, "labels": 12,
    }  # fmt: skip
    for ours, theirs in zip(unpack(packed), found, strict=True):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))


def test_images_without_any_detection_come_back_too():
    found = [random_detections(np.random.default_rng(0), 0)] * 3
    assert [as_lists(one) for one in unpack(pack(found))] == [[[], [], []]] * 3


def given_and_chosen(scenes):
    sizes = [(scene.image.height, scene.image.width) for scene in scenes]
    return [
        Picture(scene.image.path, scene.proposals, size) for scene, size in zip(scenes, sizes, strict=True)
    ]


@pytest.mark.parametrize("is_moved", [False, True])
def test_every_image_is_scored_suppressed_and_moved_by_its_own_vectors(scenes, make_windows, is_moved):
    source, pooled = make_windows("fc7"), make_windows("pool")
    generator = torch.Generator().manual_seed(0)
    # A bias that lets a part of the windows through.
    machines = Machines(
        torch.randn(CLASSES, source.dim, generator=generator), torch.full((CLASSES,), -1.0), torch.tensor(0.1)
    )
    rows = pooled.rows(scenes[0].image.path, scenes[0].proposals)
    shifts = torch.randn(len(rows), 4, generator=generator).sort(dim=1).values
    regressor = BoxRegressor(ridge=1.0).fit(rows, scenes[0].proposals, scenes[0].proposals + shifts)
    regressors = Regressors((regressor,) * CLASSES, torch.tensor(1.0))
    detector = Detector(machines, regressors if is_moved else None, source, pooled)
    order = [5, 0, 2, 4, 3]
    pictures = given_and_chosen([scenes[number] for number in order])
    answers = list(detect([detector], [iter(pictures)], USUAL, workers=2))
    for number, picture, found in zip(order, pictures, answers, strict=True):
        rows = source.rows(picture.image, picture.windows)
        expected, where = find_objects(picture.windows, machines.scores(rows), USUAL)
        if is_moved:
            vectors = pooled.rows(picture.image, picture.windows)[where]
            moved = move_objects(expected, vectors, regressors, picture.size)
            expected = suppress_again(moved, CLASSES, USUAL)
        assert as_lists(found) == as_lists(expected)
        assert (len(found.scores) == 0) == (number == 4)  # which has no proposals


def test_who_finds_every_object_and_nothing_else_has_an_ap_of_1(scenes):
    perfect = [
        Detections(scene.truth.boxes_xyxy, torch.ones(len(scene.truth.labels)), scene.truth.labels)
        for scene in scenes
    ]
    assert judged(scenes, perfect, num_classes=4).compute().nan_to_num(-1).tolist() == [1, 1, 1, -1]
    nothing = [
        one._replace(scores=one.scores[:0], boxes_xyxy=one[0][:0], labels=one[2][:0]) for one in perfect
    ]
    assert judged(scenes, nothing, num_classes=3).compute().tolist() == [0, 0, 0]
