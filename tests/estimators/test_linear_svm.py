"""The machine finds what liblinear finds, knows how far off it is, and takes what scikit-learn takes."""

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from sppnet.errors import ConfigError, NonFiniteError
from sppnet.estimators.linear_svm import LinearSvm

# The hinge is solved by a sequence of smooth problems: as good as needed, and no better for its price.
TIGHT = {"squared_hinge": 1e-10, "hinge": 1e-5}


def svm(**changes):
    settings = {"svm_c": 1.0, "loss": "squared_hinge", "bias_multiplier": 1.0, "positive_weight": 1.0}
    return LinearSvm(**(settings | {"tolerance": 1e-5} | changes))


def objective(machine, features, signs):
    """The definition, in float64, class by class."""
    coef, bias = np.float64(machine.coef_), np.float64(machine.intercept_)
    slack = np.maximum(0, 1 - signs * (features @ coef.T + bias))
    losses = slack**2 if machine.loss == "squared_hinge" else slack
    weights = np.where(signs > 0, machine.positive_weight, 1) * (signs != 0)
    norms = (coef**2).sum(1) + (bias / machine.bias_multiplier) ** 2
    return 0.5 * norms + machine.svm_c * (weights * losses).sum(0)


def liblinear(machine, features, signs):
    """The optimum as liblinear's coordinate descent finds it, run until nothing moves."""
    reference = LinearSVC(
        C=machine.svm_c,
        loss=machine.loss,
        intercept_scaling=machine.bias_multiplier,
        class_weight={1: machine.positive_weight},
        tol=1e-9,
        max_iter=1_000_000,
        dual=True,
        random_state=0,
    )
    fits = [reference.fit(features, column) for column in signs.T[:1]]
    return fits[0].coef_[0], fits[0].intercept_[0]


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_weights_are_liblinears(problem, loss):
    machine = svm(loss=loss, svm_c=0.5, bias_multiplier=10.0, positive_weight=2.0, tolerance=TIGHT[loss])
    machine.fit(problem.features, problem.signs)
    coef, bias = liblinear(machine, *problem)
    # Half the squared distance is at most the gap, and objectives here are below 100.
    closest = (200 * TIGHT[loss]) ** 0.5
    np.testing.assert_allclose(machine.coef_[0], coef, atol=closest)
    np.testing.assert_allclose(machine.intercept_[0], bias, atol=10 * closest)


@pytest.mark.parametrize("svm_c", [1e-3, 1.0, 1e2])
def test_the_gap_of_float32_features_is_under_1e_5_at_any_c(problem, svm_c):
    optimum = objective(svm(svm_c=svm_c, tolerance=1e-11).fit(*problem), *problem)
    machine = svm(svm_c=svm_c).fit(problem.features.astype(np.float32), problem.signs)
    excess = objective(machine, *problem) / optimum - 1
    assert (excess < 1e-5).all()
    assert (excess <= machine.gap_ + 1e-9).all()  # what it says about itself is a bound
    assert machine.status_ == ["converged"] * 3


@pytest.mark.parametrize("svm_c", [1e-3])
def test_the_hinge_of_rcnn_comes_within_its_gap(problem, svm_c):
    features = 20 * problem.features  # target_norm
    settings = {"loss": "hinge", "svm_c": svm_c, "positive_weight": 2.0, "bias_multiplier": 10.0}
    optimum = objective(svm(**settings, tolerance=1e-5).fit(features, problem.signs), features, problem.signs)
    machine = svm(**settings, tolerance=1e-4).fit(features.astype(np.float32), problem.signs)
    assert (objective(machine, features, problem.signs) / optimum - 1 < 1e-4).all()


def test_badly_scaled_features_are_finished_in_float64(problem):
    features = 20 * problem.features + 5
    optimum = objective(
        svm(svm_c=100.0, tolerance=1e-10).fit(features, problem.signs), features, problem.signs
    )
    machine = svm(svm_c=100.0).fit(features.astype(np.float32), problem.signs)
    assert (objective(machine, features, problem.signs) / optimum - 1 < 2e-5).all()


def test_rows_given_twice_weigh_twice(problem):
    twice = svm(svm_c=1.0, tolerance=1e-10).fit(
        np.tile(problem.features, (2, 1)), np.tile(problem.signs, (2, 1))
    )
    once = svm(svm_c=2.0, tolerance=1e-10).fit(*problem)
    np.testing.assert_allclose(twice.coef_, once.coef_, atol=1e-4)


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_a_zero_leaves_the_row_out_for_that_class_only(problem, loss):
    signs = problem.signs.copy()
    signs[::3, 0] = 0
    machine = svm(loss=loss, tolerance=TIGHT[loss]).fit(problem.features, signs)
    kept = signs[:, 0] != 0
    alone = svm(loss=loss, tolerance=TIGHT[loss]).fit(problem.features[kept], signs[kept][:, :1])
    whole = svm(loss=loss, tolerance=TIGHT[loss]).fit(*problem)
    np.testing.assert_allclose(machine.coef_[0], alone.coef_[0], atol=0.03)
    np.testing.assert_allclose(machine.coef_[1:], whole.coef_[1:], atol=0.03)


def test_a_class_that_never_occurs_is_said_and_scores_the_same_everywhere(problem):
    signs = np.column_stack([problem.signs, -np.ones(len(problem.signs)), np.zeros(len(problem.signs))])
    machine = svm().fit(problem.features, signs)
    assert machine.status_[2:] == ["converged", "no positives", "no samples"]
    assert set(machine.decision_function(problem.features)[:, 3]) == {-1}
    assert (machine.coef_[3:] == 0).all()


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_a_path_over_c_equals_separate_fits(problem, loss):
    features = problem.features.astype(np.float32)
    tolerance = {"squared_hinge": 1e-5, "hinge": 1e-4}[loss]
    machines = list(
        svm(loss=loss, tolerance=tolerance).fit_path(features, problem.signs, svm_c=[0.1, 1.0, 10.0])
    )
    for machine in machines:
        alone = svm(loss=loss, svm_c=machine.svm_c, tolerance=tolerance).fit(features, problem.signs)
        ratio = objective(machine, *problem) / objective(alone, *problem)
        np.testing.assert_allclose(ratio, 1, atol=machine.tolerance)
    assert [machine.svm_c for machine in machines] == [0.1, 1.0, 10.0]


def test_the_start_does_not_show_in_the_solution(problem):
    cold = svm(tolerance=1e-9).fit(*problem)
    warm = svm(tolerance=1e-9).fit(*problem, coef_init=3 * cold.coef_ + 1, intercept_init=cold.intercept_ - 2)
    np.testing.assert_allclose(warm.coef_, cold.coef_, atol=1e-3)


def test_labels_of_any_kind_make_one_problem_each(problem):
    labels = np.array(["bird", "cat", "dog"])[problem.signs.argmax(1)]
    machine = svm().fit(problem.features, labels)
    np.testing.assert_array_equal(machine.coef_, svm().fit(*problem).coef_)
    assert machine.score(problem.features, labels) > 0.9
    assert set(machine.predict(problem.features)) == {"bird", "cat", "dog"}


def test_two_labels_make_one_problem_and_a_vector_of_scores(problem):
    machine = svm().fit(problem.features, problem.signs[:, 0])
    np.testing.assert_allclose(machine.coef_, svm().fit(problem.features, problem.signs[:, :1]).coef_)
    assert machine.decision_function(problem.features).shape == (len(problem.features),)


def test_memory_maps_and_tensors_give_the_numbers_of_arrays(problem, tmp_path):
    features = problem.features.astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    mapped = svm().fit(np.load(tmp_path / "features.npy", mmap_mode="r"), problem.signs)
    tensors = svm().fit(torch.from_numpy(features), torch.from_numpy(problem.signs))
    np.testing.assert_array_equal(mapped.coef_, tensors.coef_.numpy())
    scores = tensors.decision_function(torch.from_numpy(features))
    np.testing.assert_array_equal(mapped.decision_function(features), scores.numpy())


def test_the_same_fit_gives_the_same_bits(problem):
    first, second = (
        svm(svm_c=10.0).fit(problem.features.astype(np.float32), problem.signs) for _ in range(2)
    )
    np.testing.assert_array_equal(first.coef_, second.coef_)


@pytest.mark.parametrize("svm_c", [0.0, -1.0, float("nan")])
def test_a_c_that_is_no_weight_is_refused(problem, svm_c):
    with pytest.raises(ConfigError, match="svm_c"):
        svm(svm_c=svm_c).fit(*problem)


def test_features_of_a_diverged_net_are_refused_by_row(problem):
    features = problem.features.copy()
    features[7, 3] = np.nan
    with pytest.raises(NonFiniteError, match="row 7"):
        svm().fit(features, problem.signs)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_scikit_learn_accepts_it_as_an_estimator():
    results = check_estimator(svm(), on_fail="raise", on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 50


@pytest.mark.parametrize("kind", [bool, int, np.uint8, np.float64])
def test_a_matrix_without_minus_ones_is_an_indicator(problem, kind):
    signs = np.where(problem.signs > 0, 1, -1)
    of_signs, of_indicator = (
        svm().fit(problem.features, signs),
        svm().fit(problem.features, (signs > 0).astype(kind)),
    )
    np.testing.assert_array_equal(of_indicator.coef_, of_signs.coef_)
    predicted = of_indicator.predict(problem.features)
    assert set(np.unique(predicted)) == {0, 1}
    np.testing.assert_array_equal(predicted > 0, of_signs.predict(problem.features) > 0)
    assert of_indicator.score(problem.features, (signs > 0).astype(kind)) == (predicted == (signs > 0)).mean()


def test_a_column_of_labels_is_a_vector_with_a_warning_and_a_column_of_signs_a_matrix(problem):
    labels = (problem.signs[:, 0] > 0).astype(int)
    with pytest.warns(UserWarning, match="column of labels"):
        of_column = svm().fit(problem.features, labels[:, None])
    np.testing.assert_array_equal(of_column.coef_, svm().fit(problem.features, labels).coef_)
    assert svm().fit(problem.features, 2 * labels[:, None] - 1).predict(problem.features).shape == (
        len(labels),
        1,
    )


@pytest.mark.parametrize("kind", [">f4", ">f8", np.longdouble, np.float16, "<u2", ">i4", bool])
def test_numbers_that_torch_has_no_type_for_are_copied(problem, kind):
    features = np.round(problem.features * 4).clip(0).astype(kind)
    plain = svm().fit(features.astype(np.float64), problem.signs)
    np.testing.assert_allclose(svm().fit(features, problem.signs).coef_, plain.coef_, atol=1e-3)


def test_labels_of_another_number_than_rows_have_no_score(problem):
    machine = svm().fit(problem.features, problem.signs)
    with pytest.raises(ValueError, match="rows of features"):
        machine.score(problem.features, problem.signs[:-1])


def test_signs_as_objects_are_signs_and_what_is_masked_is_refused(problem):
    signs = np.where(problem.signs > 0, 1, 0)
    plain = svm().fit(problem.features, signs)
    np.testing.assert_array_equal(svm().fit(problem.features, signs.astype(object)).coef_, plain.coef_)
    masked = np.ma.masked_array(problem.features, mask=problem.features > problem.features.mean())
    with pytest.raises(ValueError, match="masked array"):
        svm().fit(masked, signs)
    with pytest.raises(ValueError, match="masked array"):
        svm().fit(problem.features, np.ma.masked_array(signs, mask=problem.signs > 0))


def test_a_column_of_signs_is_scored_against_a_vector_of_them(problem):
    signs = np.where(problem.signs[:, :1] > 0, 1, -1)
    of_column = svm().fit(problem.features, signs)
    assert of_column.score(problem.features, signs[:, 0]) == of_column.score(problem.features, signs)


def test_weights_that_are_nan_are_no_result(problem):
    nothing = np.full_like(problem.signs.T @ problem.features, np.nan)
    with pytest.raises(NonFiniteError, match="coef_init"):
        svm().fit(problem.features, problem.signs, nothing, np.zeros(len(nothing)))


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (np.array([None, "a"] * 3, object), "NoneType, str"),
        (np.array([1.0, np.nan] * 3, object), "NaN"),
        (np.array([["1", "0"]] * 6, object), "not \\['0', '1'\\]"),
        (np.ones((6, 2), complex), "complex128"),
    ],
)
def test_targets_that_are_no_labels_are_named(targets, found):
    with pytest.raises(ValueError, match=found):
        svm().fit(np.eye(6), targets)


def test_tensors_of_any_real_type_are_targets_and_complex_features_none(problem):
    features, signs = torch.tensor(problem.features), torch.tensor(np.where(problem.signs > 0, 1.0, -1.0))
    plain = svm().fit(features, signs)
    assert torch.equal(svm().fit(features, signs.bfloat16()).coef_, plain.coef_)
    with pytest.raises(ValueError, match="complex64"):
        svm().fit(features.to(torch.complex64), signs)
    labels = np.where(signs[:, 0] > 0, "cat", "dog")
    assert set(svm().fit(features, labels).predict(features)) == {"cat", "dog"}  # torch has no strings


def test_a_start_of_another_shape_is_refused(problem):
    with pytest.raises(ValueError, match="a row a class"):
        svm().fit(problem.features, problem.signs, np.zeros((7, 2)), np.zeros(7))
    with pytest.raises(ValueError, match="give both"):
        svm().fit(problem.features, problem.signs, intercept_init=np.zeros(3))


def test_numbers_beyond_a_factorisation_end_in_a_status():
    features = np.random.default_rng(0).normal(size=(60, 5)) * 1e17
    assert svm().fit(features, features[:, 0] > 0).status_ == ["not converged"]
