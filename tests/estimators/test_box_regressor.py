"""Box regression as R-CNN does it: four offsets, whitened, by ridge regression (§4.1)."""

import numpy as np
import pytest
import torch

from sppnet.errors import ConfigError, NonFiniteError
from sppnet.estimators import box_regressor
from sppnet.estimators.box_regressor import BoxRegressor, BoxRegressorState
from sppnet.ops.boxes import decode_offsets, encode_offsets


def make_windows(count, seed):
    random = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 200, (count, 2), generator=random)
    sides = torch.randint(30, 200, (count, 2), generator=random)
    return torch.cat([first, first + sides], dim=1).double()


def make_problem(num_windows, num_features, seed=0):
    """Features, windows and a truth that depends on the features, with noise."""
    random = torch.Generator().manual_seed(seed)
    features, noise, relation = (
        torch.randn(*shape, generator=random, dtype=torch.float64)
        for shape in ((num_windows, num_features), (num_windows, 4), (num_features, 4))
    )
    windows = make_windows(num_windows, seed)
    offsets = 0.1 * features @ relation / num_features**0.5 + 0.05 * noise + 0.1
    return features, windows, decode_offsets(windows, offsets)


def predict_as_rcnn(features, windows, truth, new_features, new_windows, ridge):
    """rcnn_train_bbox_regressor.m and rcnn_predict_bbox_regressor.m, line by line."""

    def centre_and_size(boxes):
        size = boxes[:, 2:] - boxes[:, :2] + np.finfo(float).eps
        return boxes[:, :2] + 0.5 * size, size

    (p, p_size), (g, g_size), (q, q_size) = map(centre_and_size, (windows, truth, new_windows))
    y = np.hstack([(g - p) / p_size, np.log(g_size / p_size)])
    mu = y.mean(0)
    y = y - mu
    d, v = np.linalg.eigh(y.T @ y / len(y))
    t = v @ np.diag(1 / np.sqrt(d + 0.001)) @ v.T
    t_inv = v @ np.diag(np.sqrt(d + 0.001)) @ v.T
    x = np.hstack([features, np.ones((len(features), 1))])
    beta = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y @ t))
    offsets = (new_features @ beta[:-1] + beta[-1]) @ t_inv + mu
    centre, half = offsets[:, :2] * q_size + q, np.exp(offsets[:, 2:]) * q_size / 2
    return np.hstack([centre - half, centre + half])


@pytest.mark.parametrize("shape", [(60, 9), (9, 60), (12, 12)], ids=["primal", "dual", "square"])
@pytest.mark.parametrize("ridge", [1e-3, 1000.0])
def test_it_predicts_what_rcnns_formulas_predict(shape, ridge):
    features, windows, truth = make_problem(*shape)
    others, other_windows, _ = make_problem(7, shape[1], seed=1)
    ours = BoxRegressor(ridge=ridge).fit(features, windows, truth).predict(others, other_windows)
    arrays = (part.numpy() for part in (features, windows, truth, others, other_windows))
    np.testing.assert_allclose(ours, predict_as_rcnn(*arrays, ridge), rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(25, 10), (10, 25)])
def test_primal_equals_dual(shape, monkeypatch):
    monkeypatch.setattr(box_regressor, "_BLOCK", 4)  # several blocks, the last one not full
    features, _, _ = make_problem(*shape)
    targets = torch.randn(shape[0], 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    primal = box_regressor._solve_primal(features, targets, 0.5)
    torch.testing.assert_close(box_regressor._solve_dual(features, targets, 0.5), primal)


def test_whitened_offsets_are_uncorrelated_and_of_variance_one():
    samples = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = 30 * samples @ (torch.ones(4, 4).double() + torch.arange(1.0, 5.0).double().diag())
    whiten, unwhiten = box_regressor._whitening(samples)
    white = samples @ whiten
    torch.testing.assert_close(white.T @ white / 500, torch.eye(4).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(white @ unwhiten, samples)


def test_an_exact_affine_relation_is_found():
    random = torch.Generator().manual_seed(5)
    features = torch.rand(80, 6, generator=random, dtype=torch.float64)
    relation = 0.3 * torch.randn(6, 4, generator=random, dtype=torch.float64)
    windows = make_windows(80, 5)
    truth = decode_offsets(windows, features @ relation + torch.tensor([0.1, -0.2, 0.3, 0.05]).double())
    regressor = BoxRegressor(ridge=1e-9).fit(features[:40], windows[:40], truth[:40])
    torch.testing.assert_close(regressor.predict(features[40:], windows[40:]), truth[40:], rtol=0, atol=1e-5)
    torch.testing.assert_close(regressor.state().weights, relation, rtol=0, atol=1e-6)


def test_a_large_ridge_leaves_the_mean_offset():
    features, windows, truth = make_problem(30, 5)
    regressor = BoxRegressor(ridge=1e12).fit(features, windows, truth)
    mean = encode_offsets(windows, truth).mean(dim=0).expand(30, 4)
    torch.testing.assert_close(regressor.predict(features, windows), decode_offsets(windows, mean))


def test_one_window_is_enough():
    features, windows, truth = make_problem(1, 5)
    regressor = BoxRegressor(ridge=1.0).fit(features, windows, truth)
    torch.testing.assert_close(regressor.predict(features, windows), truth)


def test_without_windows_boxes_stay_where_they_are():
    regressor = BoxRegressor(ridge=1000.0).fit(torch.empty(0, 8), torch.empty(0, 4), torch.empty(0, 4))
    windows = make_windows(5, 0).float()
    assert regressor.status_ == "no samples"
    assert torch.equal(regressor.predict(torch.rand(5, 8), windows), windows)


@pytest.mark.parametrize("num_windows", [0, 12])
def test_a_state_predicts_the_same(num_windows):
    features, windows, truth = make_problem(num_windows, 3)
    fitted = BoxRegressor(ridge=2.0).fit(features, windows, truth)
    copies = BoxRegressorState(*(part.clone() for part in fitted.state()))
    restored = BoxRegressor.from_state(copies)
    others, other_windows, _ = make_problem(4, 3, seed=1)
    assert torch.equal(restored.predict(others, other_windows), fitted.predict(others, other_windows))
    assert restored.status_ == fitted.status_ == ("fitted" if num_windows else "no samples")
    with pytest.raises(ConfigError, match="has no ridge to be fitted with"):
        restored.fit(features, windows, truth)


def test_single_precision_features_are_solved_in_double_precision():
    features, windows, truth = make_problem(40, 6)
    features = (1000 + features).float()  # in float32, the squares would hide the rest
    single = BoxRegressor(ridge=1e-3).fit(features, windows, truth)
    double = BoxRegressor(ridge=1e-3).fit(features.double(), windows, truth)
    torch.testing.assert_close(single.state().weights, double.state().weights)


def test_no_windows_give_no_predictions():
    regressor = BoxRegressor(ridge=1.0).fit(*make_problem(5, 3))
    assert regressor.predict(torch.empty(0, 3), torch.empty(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ridge_that_is_none_is_refused(ridge):
    with pytest.raises(ConfigError, match="positive"):
        BoxRegressor(ridge=ridge)


def test_a_ridge_lost_beside_the_features_is_named():
    features = torch.ones(6, 3, dtype=torch.float64) * 1e12
    with pytest.raises(ConfigError, match="raise it"):
        BoxRegressor(ridge=1e-9).fit(features, make_windows(6, 0), make_windows(6, 1))


def test_features_that_are_no_numbers_are_refused():
    features, windows, truth = make_problem(5, 3)
    features[2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="row 2"):
        BoxRegressor(ridge=1.0).fit(features, windows, truth)


def test_windows_of_small_integers_move_as_real_ones():
    features, windows = torch.rand(9, 2), torch.tensor([[1, 2, 150, 200]] * 9, dtype=torch.uint8)
    regressor = BoxRegressor(ridge=1.0).fit(features, windows, windows.float() + 90)
    moved = regressor.predict(features, windows)
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, regressor.predict(features, windows.float()))
    assert moved.max() > 255


def test_what_no_prediction_can_come_from_is_refused():
    windows = torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 3)
    with pytest.raises(ConfigError, match="before it is fitted"):
        _ = BoxRegressor(ridge=1.0).status_
    regressor = BoxRegressor(ridge=1.0).fit(torch.rand(3, 2), windows, windows)
    with pytest.raises(NonFiniteError):
        regressor.predict(torch.full((3, 2), float("nan")), windows)
    with pytest.raises(ValueError, match="expected 2 for each"):
        regressor.predict(torch.rand(3, 5), windows)
