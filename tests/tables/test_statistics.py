import numpy as np
import pytest
from scipy import stats

from sppnet.tables.statistics import estimate, holm, sign_flip, student_quantile, student_share

FREEDOMS = [1.0, 2.5, 4.0, 9.3, 99.0]


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_students_distribution_is_scipys(freedom):
    for t in (-3.0, -0.4, 0.0, 0.1, 1.0, 2.7, 40.0):
        assert student_share(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)
    for share in (0.025, 0.5, 0.8, 0.975, 0.9995):
        assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9)


def test_with_infinite_freedom_it_is_the_normal_one():
    assert student_quantile(0.975, float("inf")) == pytest.approx(stats.norm.ppf(0.975))


@pytest.mark.parametrize("num_pairs", [3, 5, 9, 14])
def test_few_signs_are_all_tried_as_scipy_does(num_pairs):
    values = np.random.default_rng(num_pairs).normal(0.4, 1, num_pairs)
    expected = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip(values) == pytest.approx(expected.pvalue)


def test_many_signs_are_drawn_and_always_the_same():
    values = np.random.default_rng(1).normal(0.3, 1, 16)
    # Each drawn share is within 4 sqrt(p (1 - p) / 20,000) of the exact one.
    signs = 1 - 2.0 * (np.arange(2**16)[:, None] >> np.arange(16) & 1)
    exact = (signs @ values >= values.sum() - 1e-9).mean()
    assert sign_flip(values) == pytest.approx(exact, abs=4 * (exact / 20_000) ** 0.5 + 1e-4)
    assert sign_flip(values) == sign_flip(values)


def test_five_pairs_that_agree_have_the_smallest_p_there_is_and_ties_speak_for_nobody():
    assert sign_flip([1, 2, 3, 4, 5]) == 1 / 32
    assert sign_flip([1, 1, 1]) == 1 / 8
    assert sign_flip([0, 0, 0]) == 1.0


def test_holm_is_that_of_his_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_without_images_it_is_scipys_paired_t():
    ours, theirs = np.random.default_rng(0).normal(0, 1, (2, 7))
    expected = stats.ttest_rel(ours, theirs)
    found = estimate(ours - theirs)
    assert found.interval == pytest.approx(expected.confidence_interval(0.95))
    assert min(found.above(0), found.below(0)) == pytest.approx(expected.pvalue)


def test_pairs_that_do_not_differ_have_an_interval_of_no_width():
    found = estimate([1.0, 1.0, 1.0])
    assert found.interval == (1.0, 1.0)
    assert (found.above(0), found.above(1), found.below(1)) == (0.0, 1.0, 1.0)


def test_more_pairs_are_needed_for_a_smaller_effect_and_none_would_do_where_images_are_too_few():
    values = np.random.default_rng(0).normal(0.2, 1, 6)
    needed = [estimate(values).pairs_to_see(effect) for effect in (2.0, 1.0, 0.5)]
    assert needed == sorted(needed)
    # Power of a t test of that many pairs, by scipy's noncentral t.
    for effect, pairs in zip((2.0, 1.0, 0.5), needed, strict=True):
        noncentral = effect / values.std(ddof=1) * pairs**0.5
        power = stats.nct.sf(stats.t.ppf(0.975, pairs - 1), pairs - 1, noncentral)
        assert power > 0.78
    images = np.random.default_rng(0).normal(0, 1, (1, 400)).repeat(6, axis=0)
    assert estimate(values, images, 100).pairs_to_see(1.0) is None


def _simulated(num_pairs, of_pairs, of_images, of_both, effect, *, attempts, num_images=100, draws=100):
    """Shares of attempts whose interval covers the effect, lies above 0, and lies below 0."""
    generator = np.random.default_rng(7)
    covered = above = below = 0
    for _ in range(attempts):
        weights = generator.poisson(1, (draws, num_images)).astype(float)
        weights /= weights.sum(axis=1, keepdims=True)
        values = (
            effect
            + generator.normal(0, of_pairs, (num_pairs, 1))
            + generator.normal(0, of_images, num_images)
            + generator.normal(0, of_both, (num_pairs, num_images))
        )
        low, high = estimate(values.mean(axis=1), values @ weights.T, num_images).interval
        covered += low <= effect <= high
        above += low > 0
        below += high < 0
    return covered / attempts, above / attempts, below / attempts


@pytest.mark.parametrize("num_pairs", [5, *(pytest.param(many, marks=pytest.mark.slow) for many in (10, 20))])
@pytest.mark.parametrize("spreads", [(0.5, 5.0, 5.0), (0.0, 5.0, 5.0), (1.0, 0.0, 5.0), (1.0, 1.0, 1.0)])
def test_intervals_cover_what_they_say_and_nothing_is_decided_where_nothing_is(num_pairs, spreads):
    attempts = 300
    covered, above, below = _simulated(num_pairs, *spreads, 0.0, attempts=attempts)
    # 0.95 within three standard errors, 0.0126 each.
    assert 0.91 <= covered <= 0.99
    assert above <= 0.025 + 3 * (0.025 * 0.975 / attempts) ** 0.5
    assert below <= 0.025 + 3 * (0.025 * 0.975 / attempts) ** 0.5


def test_a_known_effect_is_found():
    covered, above, _ = _simulated(10, 0.3, 3.0, 3.0, 1.5, attempts=100)
    assert covered > 0.85
    assert above > 0.9
