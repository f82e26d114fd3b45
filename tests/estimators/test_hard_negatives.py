"""Mining keeps what R-CNN's rules keep, and its weights are liblinear's on what it kept."""

import logging
import math

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from sppnet.errors import ArtifactError, ConfigError, NonFiniteError, ResourceError
from sppnet.estimators.hard_negatives import HardNegativeSvm

CLASSES, FEATURES, IMAGES, WINDOWS = 3, 60, 12, 40


def machine(**changes):
    settings = {
        **{"num_classes": CLASSES, "num_features": FEATURES, "svm_c": 1e-3, "loss": "hinge"},
        **{"bias_multiplier": 10.0, "positive_weight": 2.0, "tolerance": 1e-6},
        **{"hard_above": -1.0001, "evict_below": -1.2, "retrain_after": 30, "max_rows": 1000},
    }
    return HardNegativeSvm(**(settings | changes))


class Images:
    """Rows as a net makes them: nothing negative, sparse, of norm 20, objects and their background alike."""

    def __init__(self):
        random = np.random.default_rng(0)
        causes = random.standard_normal((IMAGES, WINDOWS, CLASSES))
        rows = causes @ random.standard_normal((CLASSES, FEATURES))
        rows = np.maximum(rows + random.standard_normal((IMAGES, WINDOWS, FEATURES)) - 0.5, 0)
        rows *= 20 / np.linalg.norm(rows, axis=2).mean()
        self.rows = torch.from_numpy(rows).float()
        self.signs = torch.full((IMAGES, WINDOWS, CLASSES), -1)
        # Windows 0 to 2 of every image are ground truth of one class; so they are negatives of the others.
        self.labels = torch.from_numpy(causes[:, :CLASSES].argmax(axis=2))
        for label in range(CLASSES):
            self.signs[:, :CLASSES, label][self.labels == label] = 0
        self.ids = torch.arange(IMAGES)[:, None] * 1000 + torch.arange(WINDOWS)

    def rows_of(self, ids):
        return self.rows[ids // 1000, ids % 1000]

    def add_positives(self, svm):
        for rows, labels, ids in zip(self.rows, self.labels, self.ids, strict=True):
            svm.add_positives(rows[:CLASSES], labels, ids[:CLASSES])

    def mine(self, svm, images=range(IMAGES)):
        for index in images:
            svm.see(self.rows[index], self.signs[index], self.ids[index])
        return svm

    def mined(self, **changes):
        svm = machine(**changes)
        self.add_positives(svm)
        self.mine(svm).finish()
        return svm


@pytest.fixture(scope="module")
def images():
    return Images()


def held(svm, label):
    """Names and signs of the rows of a class."""
    state = svm.state()
    signs = state["signs"][:, label]
    return state["ids"][signs != 0], signs[signs != 0].numpy()


def objective(loss, coef, intercept, rows, signs):
    """The definition in recipe F3, in float64."""
    slack = np.maximum(0, 1 - signs * (rows @ coef + intercept))
    weights = np.where(signs > 0, 2e-3, 1e-3)
    return 0.5 * (coef @ coef + (intercept / 10) ** 2) + weights @ (slack**2 if loss != "hinge" else slack)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_weights_are_liblinears_on_the_rows_kept(images, loss):
    svm = images.mined(loss=loss)
    for label in range(CLASSES):
        ids, signs = held(svm, label)
        rows = images.rows_of(ids).double().numpy()
        oracle = LinearSVC(
            **{"C": 1e-3, "loss": loss, "class_weight": {1: 2}, "intercept_scaling": 10, "dual": True},
            **{"tol": 1e-9, "max_iter": 1_000_000, "random_state": 0},
        ).fit(rows, signs)
        coef, intercept = svm.coef[label].double().numpy(), svm.intercept[label].item()
        best = objective(loss, oracle.coef_[0], oracle.intercept_[0], rows, signs)
        assert objective(loss, coef, intercept, rows, signs) == pytest.approx(best, rel=2e-6)
        scores = oracle.decision_function(rows)
        # Half the squared distance of the weights is at most the gap, and rows have a norm of about 20.
        assert np.abs(rows @ coef + intercept - scores).max() < 40 * math.sqrt(2e-6 * best)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_the_gap_is_that_between_the_objective_and_its_dual(images, loss):
    svm = images.mined(loss=loss, tolerance=1e-2)
    state = svm.state()
    for label in range(CLASSES):
        chosen = state["signs"][:, label] != 0
        signs, duals = (state[name][chosen, label].numpy() for name in ("signs", "duals"))
        rows = images.rows_of(state["ids"][chosen]).double().numpy()
        vector = np.append((duals * signs) @ rows, 10 * duals @ signs)
        primal = objective(loss, vector[:-1], 10 * vector[-1], rows, signs)
        # The Lagrange dual; a squared loss costs the square of its dual variable, a hinge limits it.
        costs = np.where(signs > 0, 2e-3, 1e-3)
        dual = duals.sum() - 0.5 * vector @ vector
        if loss == "squared_hinge":
            dual -= (duals**2 / (4 * costs)).sum()
        else:
            assert (duals <= costs).all()
        assert svm.gap[label].item() == pytest.approx(1 - dual / primal, rel=1e-6)
        assert 0 < svm.gap[label] <= 1e-2
    assert svm.status == ["converged"] * CLASSES


def line(*values):
    """Rows of one feature."""
    return torch.tensor(values)[:, None]


def on_a_line(**changes):
    """One class whose weights can be told by eye: the positive at +2, the first negative at -2."""
    svm = machine(
        **{"num_classes": 1, "num_features": 1, "svm_c": 1e3, "bias_multiplier": 1.0, "retrain_after": 2}
        | changes
    )
    svm.add_positives(line(2.0), torch.tensor([0]), torch.tensor([100]))
    svm.see(line(-2.0), torch.tensor([[-1]]), torch.tensor([200]))
    return svm


def show(svm, values, first_id):
    signs = torch.full((len(values), 1), -1)
    svm.see(line(*values), signs, torch.arange(first_id, first_id + len(values)))


def test_the_first_image_trains_the_first_model():
    svm = on_a_line()
    torch.testing.assert_close(svm.coef, torch.tensor([[0.5]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(svm.intercept, torch.tensor([0.0]), atol=2e-3, rtol=0)


def test_only_negatives_that_score_above_hard_above_are_taken():
    svm = on_a_line()
    # Scores are half the values: -1.5, -1.25, -0.5.
    show(svm, [-3.0, -2.5, -1.0], 300)
    assert held(svm, 0)[0].tolist() == [100, 200, 302]


def test_windows_that_are_no_negatives_are_not_taken():
    svm = on_a_line()
    svm.see(line(1.0, 1.0), torch.tensor([[0], [1]]), torch.tensor([300, 301]))
    assert held(svm, 0)[0].tolist() == [100, 200]


def test_a_window_seen_again_is_not_taken_again():
    svm = on_a_line()
    show(svm, [-1.0, 0.0], 300)
    show(svm, [-1.0, 0.0], 300)
    assert held(svm, 0)[0].tolist() == [100, 200, 300, 301]
    assert svm.coef.item() == pytest.approx(0.5, abs=1e-3)  # two are not more than retrain_after


def test_a_class_is_trained_when_more_than_retrain_after_were_taken_and_gives_up_easy_ones():
    svm = on_a_line()
    show(svm, [-1.0], 300)
    show(svm, [0.0], 301)
    assert svm.coef.item() == pytest.approx(0.5, abs=1e-3)
    show(svm, [-0.5], 302)
    # Now +1 at 2 and -1 at 0: the score is x - 1, and -2 scores -3, -1 scores -2, -0.5 scores -1.5.
    assert (svm.coef.item(), svm.intercept.item()) == pytest.approx((1.0, -1.0), abs=1e-2)
    assert held(svm, 0)[0].tolist() == [100, 301]


def test_finish_trains_on_what_was_taken_since():
    svm = on_a_line(retrain_after=2000)
    show(svm, [0.0], 300)
    svm.finish()
    assert (svm.coef.item(), svm.intercept.item()) == pytest.approx((1.0, -1.0), abs=1e-2)
    assert held(svm, 0)[0].tolist() == [100, 200, 300]


def test_a_class_without_positives_takes_nothing_and_rejects_all(images):
    svm = machine()
    svm.add_positives(images.rows[0, :1], torch.tensor([1]), images.ids[0, :1])
    images.mine(svm, [1, 2]).finish()
    assert svm.status == ["no positives", "converged", "no positives"]
    assert svm.coef[[0, 2]].abs().max() == 0
    assert svm.intercept[[0, 2]].tolist() == [-1, -1]
    assert set(svm.state()["signs"][:, [0, 2]].unique().tolist()) == {0}


def test_a_class_takes_all_of_the_first_image_that_has_negatives_for_it(images):
    svm = machine(num_classes=2, evict_below=-100.0)
    svm.add_positives(images.rows[0, :2], torch.tensor([0, 1]), images.ids[0, :2])
    for index, signs in ((1, [-1, 0]), (2, [0, -1])):
        svm.see(images.rows[index], torch.tensor(signs).expand(WINDOWS, 2), images.ids[index])
        assert (held(svm, index - 1)[1] < 0).sum() == WINDOWS
    svm.finish()
    assert svm.status == ["converged", "converged"]


def test_without_negatives_the_status_says_so(images):
    svm = machine()
    images.add_positives(svm)
    svm.finish()
    assert svm.status == ["no negatives"] * CLASSES
    assert svm.intercept.tolist() == [1] * CLASSES


def test_a_row_that_several_classes_hold_is_stored_once(images):
    ids = images.mined().state()["ids"]
    assert len(ids.unique()) == len(ids)


@pytest.mark.parametrize("stop", [1, 5, IMAGES])
def test_going_on_after_restoring_changes_no_bit(images, stop):
    whole = images.mined()
    begun, resumed = machine(), machine(max_rows=900)
    images.add_positives(begun)
    resumed.restore(images.mine(begun, range(stop)).state(), images.rows_of)
    images.mine(resumed, range(stop, IMAGES)).finish()
    for name, part in whole.state().items():
        assert torch.equal(part, resumed.state()[name]), name


def test_classes_side_by_side_change_no_bit(images):
    one, three = images.mined(workers=1), images.mined(workers=3)
    for name, part in one.state().items():
        assert torch.equal(part, three.state()[name]), name


def test_a_full_cache_gives_up_the_negatives_that_score_lowest():
    svm = on_a_line(max_rows=5, retrain_after=2000)
    show(svm, [-1.5, 0.5, -1.0], 300)
    show(svm, [0.0], 303)
    # Room for one more: a tenth of the five is freed, which is the lowest of them.
    assert sorted(svm.state()["ids"].tolist()) == [100, 300, 301, 302, 303]
    assert svm.num_dropped == 1


def test_a_full_cache_warns_once(caplog):
    caplog.set_level(logging.DEBUG, "sppnet")
    svm = on_a_line(max_rows=5, retrain_after=2000)
    for first_id in range(300, 306):
        show(svm, [first_id / 1000], first_id)
    assert svm.num_dropped == 3
    full = [record for record in caplog.records if "max_rows=5 is full" in record.getMessage()]
    assert [record.levelname for record in full] == ["WARNING", "DEBUG", "DEBUG"]


def test_a_row_that_another_class_wants_now_is_not_given_up():
    svm = machine(num_classes=2, num_features=1, max_rows=5, retrain_after=2000)
    svm.add_positives(line(2.0, 2.0), torch.tensor([0, 1]), torch.tensor([100, 101]))
    svm.see(line(0.0, 1.0, 1.5), torch.tensor([[-1, 0], [-1, -1], [-1, -1]]), torch.tensor([200, 201, 202]))
    # Row 200 scores lowest; with it comes a new one, for which another has to go.
    svm.see(line(0.0, 1.0), torch.tensor([[-1, -1], [-1, -1]]), torch.tensor([200, 203]))
    signs = dict(zip(svm.state()["ids"].tolist(), svm.state()["signs"].tolist(), strict=True))
    assert signs == {100: [1, 0], 101: [0, 1], 200: [-1, -1], 202: [-1, -1], 203: [-1, -1]}


def test_what_is_not_held_has_no_dual_variable(images):
    # Solved loosely, easy negatives still have some when they are given up.
    for svm in (images.mined(tolerance=0.9), images.mined(max_rows=100, svm_c=1e-4)):
        state = svm.state()
        assert state["duals"][state["signs"] == 0].abs().max() == 0


def test_positives_are_never_given_up(images):
    svm = images.mined(max_rows=100, svm_c=1e-4)
    assert svm.num_dropped > 0
    assert len(svm.state()["ids"]) <= 100
    assert sum((held(svm, label)[1] > 0).sum() for label in range(CLASSES)) == CLASSES * IMAGES


def test_positives_that_do_not_fit_name_the_setting_to_raise(images):
    with pytest.raises(
        ResourceError, match=r"max_rows=35 has no room for 33 rows that have to stay and 3 new"
    ):
        images.add_positives(machine(max_rows=35))


def test_a_state_that_does_not_fit_names_the_setting_to_raise(images):
    with pytest.raises(ResourceError, match=r"max_rows=50, but the state to go on from has \d+ rows"):
        machine(max_rows=50).restore(images.mined().state(), images.rows_of)


def test_a_state_of_other_features_is_refused(images):
    with pytest.raises(ArtifactError, match="state of \\(3, 60\\) weights, expected \\(3, 61\\)"):
        machine(num_features=61).restore(images.mined().state(), images.rows_of)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_refused(images, value):
    svm = machine()
    rows = images.rows[0].clone()
    rows[2, 7] = value
    with pytest.raises(NonFiniteError, match="row 2"):
        svm.add_positives(rows[:CLASSES], images.labels[0], images.ids[0, :CLASSES])
    with pytest.raises(NonFiniteError, match="row 2"):
        svm.see(rows, images.signs[0], images.ids[0])


def test_calls_out_of_order_are_refused(images):
    svm = machine()
    images.add_positives(svm)
    images.mine(svm, [0])
    with pytest.raises(ConfigError, match="add_positives while 'mining': first add_positives, then see"):
        images.add_positives(svm)
    svm.finish()
    with pytest.raises(ConfigError, match="see while 'finished'"):
        images.mine(svm, [1])


def test_a_name_given_twice_is_refused(images):
    svm = machine()
    images.add_positives(svm)
    with pytest.raises(ValueError, match="given as positives before"):
        images.add_positives(svm)
    with pytest.raises(ValueError, match="given twice"):
        svm.see(images.rows[0], images.signs[0], torch.zeros(WINDOWS, dtype=torch.int64))


def test_shapes_that_do_not_fit_are_named(images):
    with pytest.raises(ValueError, match=r"rows of shape \(40, 59\).*expected 40 x 60"):
        machine().see(images.rows[0, :, 1:], images.signs[0], images.ids[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evict_below": -1.0}, "evict_below=-1.0 must be under hard_above=-1.0001"),
        ({"svm_c": 0.0}, "svm_c=0.0 must be positive"),
        ({"loss": "logistic"}, "loss='logistic' is neither 'squared_hinge' nor 'hinge'"),
        ({"bias_multiplier": -1.0}, "bias_multiplier=-1.0"),
        ({"max_rows": 0}, "max_rows=0"),
        ({"retrain_after": -1}, "retrain_after=-1"),
    ],
)
def test_a_hyperparameter_out_of_range_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        machine(**changes)


def test_signs_that_are_flags_or_of_other_classes_are_refused():
    one = machine()
    rows, ids = torch.rand(4, FEATURES), torch.arange(4)
    for signs in (torch.ones(4, CLASSES, dtype=torch.uint8), -torch.ones(4, CLASSES - 1, dtype=torch.int8)):
        with pytest.raises(ValueError, match="with -1 where a window is a possible negative"):
            one.see(rows, signs, ids)


def test_labels_of_any_integer_type_are_positions_and_rows_beyond_float32_are_refused():
    svms = machine(num_features=2, num_classes=2)
    svms.add_positives(torch.eye(2), torch.tensor([0, 1], dtype=torch.uint8), torch.tensor([1, 2]))
    assert svms.status == ["no negatives"] * 2
    with pytest.raises(NonFiniteError, match="infinity"):
        svms.see(torch.full((1, 2), 1e300, dtype=torch.float64), torch.tensor([[-1, -1]]), torch.tensor([3]))
    with pytest.raises(ValueError, match="else 0 or 1"):
        svms.see(torch.ones(1, 2), torch.tensor([[-1, 5]]), torch.tensor([3]))
