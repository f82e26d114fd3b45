"""How sure a mean of paired differences is: its interval, its p, and how many more pairs would decide.

Two things are drawn at random: what is repeated (seeds, or splits) and the test images. The variance of a
mean difference is estimated over both: over the repeats by their spread, over the images by a bootstrap whose
weights belong to images (metrics/replicates.py), so that cells which saw the same image share its weight.
Student's t with Satterthwaite's degrees of freedom makes the interval: plain percentiles of five pairs cover
far less than the 95 % that they say.

Axes: r repeats, b replicates.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

ALPHA: Final = 0.05
POWER: Final = 0.8
MIN_PAIRS: Final = 5  # fewer cannot all agree by chance less often than one time in twenty: 1/16
_EXACT_PAIRS: Final = 14  # up to here all 2^n signs are tried
_DRAWS: Final = 20_000
_MOST_PAIRS: Final = 1000
_SEED: Final = 20150808


class Estimate(NamedTuple):
    """A mean of paired differences.

    Attributes:
        mean: Over the pairs.
        error: Standard error; 0 where nothing varied.
        freedom: Degrees of freedom of t; infinite where all of the error comes from many images.
        of_images: Part of the error's square that more repeats would not take away.
        differences: One a pair.
    """

    mean: float
    error: float
    freedom: float
    of_images: float
    differences: tuple[float, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence, two-sided."""
        reach = student_quantile(1 - ALPHA / 2, self.freedom) * self.error
        return self.mean - reach, self.mean + reach

    @property
    def visible(self) -> float:
        """The smallest true difference from its bound that such data shows in four of five attempts."""
        quantiles = (student_quantile(one, self.freedom) for one in (1 - ALPHA / 2, POWER))
        return self.error * sum(quantiles)

    def above(self, bound: float) -> float:
        """P, two-sided, that the true mean is no more than `bound`."""
        if self.error == 0:
            return 0.0 if self.mean > bound else 1.0
        return min(1.0, 2 * (1 - student_share((self.mean - bound) / self.error, self.freedom)))

    def below(self, bound: float) -> float:
        """P, two-sided, that the true mean is no less than `bound`."""
        return self._replace(mean=-self.mean).above(-bound)

    def pairs_to_see(self, effect: float) -> int | None:
        """How many pairs would show a difference of `effect` in four of five attempts; None: no number would.

        None too with one pair: how repeats spread is not known.
        """
        count = len(self.differences)
        if count < 2 or effect <= 0:
            return None
        of_repeats = (self.error**2 - self.of_images) * count

        def shows(pairs: int) -> bool:
            quantiles = sum(student_quantile(one, pairs - 1.0) for one in (1 - ALPHA / 2, POWER))
            return quantiles**2 * (of_repeats / pairs + self.of_images) <= effect**2

        pairs = bisect.bisect_left(range(_MOST_PAIRS), True, lo=MIN_PAIRS, key=shows)
        return pairs if pairs < _MOST_PAIRS else None


def estimate(
    differences: Sequence[float], replicates: NDArray[np.float64] | None = None, num_images: int = 0
) -> Estimate:
    """Estimate the mean of paired differences and its error, over repeats and images.

    Args:
        differences: One a repeat, one or more.
        replicates: r x b, the same differences over images drawn anew; None where not known.
        num_images: Behind a replicate; with one repeat the degrees of freedom follow from it.

    Returns:
        With one repeat, the error of the images alone.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    of_repeats = float(values.var(ddof=1)) / count if count > 1 else 0.0
    of_images, shared = 0.0, 0.0
    if replicates is not None:
        of_images = float(replicates.mean(axis=0).var(ddof=1))
        if count > 1:
            # What is of an image in one repeat only stands in both variances: it is taken out of one of them.
            alone = float(replicates.var(axis=1, ddof=1).mean())
            shared = min(max((alone - of_images) / (count - 1), 0.0), of_images, of_repeats)
    variance = of_repeats + of_images - shared
    if count > 1 and of_repeats > 0:
        freedom = (count - 1) * (variance / of_repeats) ** 2
    else:
        freedom = num_images - 1.0 if num_images > 1 else math.inf
    mean = float(values.mean())
    return Estimate(
        mean, math.sqrt(variance), freedom, of_images - shared, tuple(float(value) for value in values)
    )


def sign_flip(differences: Sequence[float]) -> float:
    """P, one-sided, of a mean as large as this if every difference could as well have the other sign.

    Exact up to 14 pairs, otherwise of 20,000 drawn signs, which are always the same. Differences of zero are
    pairs that speak for neither side.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) <= _EXACT_PAIRS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
        more = 0
    else:
        signs = np.random.default_rng(_SEED).choice((1.0, -1.0), size=(_DRAWS, len(values)))
        more = 1  # the signs as they are, which always count
    sums = signs @ values
    tolerance = 1e-9 * float(np.abs(values).sum())
    return (int((sums >= values.sum() - tolerance).sum()) + more) / (len(signs) + more)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979): what is at most 0.05 then may be said of all together."""
    adjusted = [0.0] * len(values)
    most = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        most = max(most, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = most
    return adjusted


def student_share(t: float, freedom: float) -> float:
    """Share of Student's distribution below `t`; the normal one with infinite freedom."""
    if freedom > 1e6:
        return 0.5 * math.erfc(-t / math.sqrt(2))
    tail = 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 1 - tail if t > 0 else tail


@functools.lru_cache(maxsize=4096)
def student_quantile(share: float, freedom: float) -> float:
    """The value below which a share of Student's distribution lies, by bisection."""
    if share < 0.5:
        return -student_quantile(1 - share, freedom)
    low, high = 0.0, 1.0
    while student_share(high, freedom) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_share(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised, by Lentz's continued fraction (Numerical Recipes §6.4)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    scale = a * math.log(x) + b * math.log1p(-x)
    scale += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 1000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + step * d), 1 + step / c
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(scale) * value / a
