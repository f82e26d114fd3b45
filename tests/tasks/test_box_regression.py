"""Box regressors: which windows they learn from, and that they are those of the estimator (§4.1)."""

import pytest
import torch

from sppnet.data.window_labels import windows_of_image
from sppnet.errors import ConfigError
from sppnet.estimators.box_regressor import BoxRegressor
from sppnet.tasks.box_regression import Regression, fit_regressors

CLASSES = 4  # the last has no objects
SCALE = torch.tensor(0.7)
RULES = Regression(min_overlap=0.5, max_windows=1000, ridge=10.0, seed=5)


@pytest.fixture
def fit(scenes, make_windows):
    def fit(rules=RULES, *, first=0, workers=1, images=scenes):
        made = fit_regressors(
            images,
            make_windows(),
            regression=rules,
            scale=SCALE,
            num_classes=CLASSES,
            first=first,
            workers=workers,
        )
        return [regressor.state() for regressor in made]

    return fit


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return shared / (sum(areas) - shared)


def windows_by_hand(scenes, label, min_overlap):
    """Of every scene: windows whose best object is of the class and near enough, and those objects."""
    for index, scene in enumerate(scenes):
        objects, labels = scene.truth.boxes_xyxy.tolist(), scene.truth.labels.tolist()
        pairs = []
        for window in windows_of_image(scene.proposals, scene.truth).tolist():
            overlaps = [overlap(window, one) for one in objects]
            best = max(overlaps, default=0.0)
            if best >= min_overlap and labels[overlaps.index(best)] == label:
                pairs.append((window, objects[overlaps.index(best)]))
        yield index, pairs


@pytest.mark.parametrize("min_overlap", [0.5, 0.8])
def test_regressors_are_those_of_the_windows_that_overlap_their_object_enough(
    scenes, make_windows, fit, min_overlap
):
    source, counts = make_windows(), []
    for label, state in enumerate(fit(RULES._replace(min_overlap=min_overlap))):
        features, windows, truth = [torch.zeros(0, source.dim)], [], []
        for index, pairs in windows_by_hand(scenes, label, min_overlap):
            if pairs:
                features.append(
                    SCALE
                    * source.rows(scenes[index].image.path, torch.tensor([window for window, _ in pairs]))
                )
            windows += [window for window, _ in pairs]
            truth += [box for _, box in pairs]
        boxes = [torch.tensor(one).reshape(-1, 4) for one in (windows, truth)]
        expected = BoxRegressor(ridge=10.0).fit(torch.cat(features), *boxes).state()
        assert int(state.num_windows) == len(windows)
        for ours, theirs in zip(state, expected, strict=True):
            assert torch.equal(ours, theirs)
        counts.append(len(windows))
    assert min(counts[:3]) > 0 == counts[3]


def test_scenes_where_nothing_is_near_an_object_are_of_no_matter(scenes, fit):
    with_objects = [scene for scene in scenes if len(scene.truth.labels)]
    assert len(with_objects) < len(scenes)
    assert torch.equal(fit(images=scenes[:2])[0].weights, fit(images=scenes[:3])[0].weights)


def test_a_regressor_draws_boxes_nearer_to_their_objects(scenes, make_windows, fit):
    # Of the windows that it learned from; of others it could not be told with so few.
    source, (state, *_) = make_windows(), fit(RULES._replace(ridge=1.0))
    regressor = BoxRegressor.from_state(state)
    before, after = [], []
    for index, pairs in windows_by_hand(scenes, 0, 0.5):
        if pairs:
            windows = torch.tensor([window for window, _ in pairs])
            rows = SCALE * source.rows(scenes[index].image.path, windows)
            moved = regressor.predict(rows, windows).tolist()
            before += [overlap(window, box) for window, box in pairs]
            after += [overlap(window, box) for window, (_, box) in zip(moved, pairs, strict=True)]
    assert sum(after) / len(after) > sum(before) / len(before) + 0.05


def test_of_more_windows_than_wanted_some_are_drawn(fit):
    every = fit()
    counts = [int(state.num_windows) for state in every]
    few = fit(RULES._replace(max_windows=5))
    assert min(counts[:3]) > 5
    assert [int(state.num_windows) for state in few] == [5, 5, 5, 0]
    for label in range(3):
        assert not torch.equal(few[label].weights, every[label].weights)
    again, other = fit(RULES._replace(max_windows=5)), fit(RULES._replace(max_windows=5, seed=6))
    assert torch.equal(few[0].weights, again[0].weights)
    assert not torch.equal(few[0].weights, other[0].weights)
    assert torch.equal(fit(RULES._replace(max_windows=counts[0]))[0].weights, every[0].weights)


@pytest.mark.parametrize("first", [1, 3, 4])
@pytest.mark.parametrize("max_windows", [5, 1000])
def test_classes_that_are_known_already_change_nothing_for_the_others(fit, first, max_windows):
    rules = RULES._replace(max_windows=max_windows)
    rest = fit(rules, first=first)
    assert len(rest) == CLASSES - first
    for ours, theirs in zip(rest, fit(rules)[first:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_number_of_workers_changes_no_bit(fit):
    for one, three in zip(fit(workers=1), fit(workers=3), strict=True):
        assert torch.equal(one.weights, three.weights)


def test_a_class_without_windows_leaves_boxes_where_they_are(fit):
    *_, empty = fit()
    boxes = torch.tensor([[3.0, 4, 20, 30]])
    regressor = BoxRegressor.from_state(empty)
    assert regressor.status_ == "no samples"
    assert torch.equal(regressor.predict(torch.ones(1, 40), boxes), boxes)


def test_an_overlap_that_every_window_has_is_refused(fit):
    with pytest.raises(ConfigError, match="min_overlap=0"):
        fit(RULES._replace(min_overlap=0.0))
