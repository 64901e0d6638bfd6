"""Means over a few seeds with intervals, and paired differences.

The interval is that of the studentized bootstrap (Efron and Tibshirani 1993, section 12.5): resamples are compared by
their distance from the mean in units of their own standard error. Among five values, the percentile bootstrap covers
the mean in 79 to 84% of samples instead of 95%, Hesterberg's expanded percentiles (2015) in 87 to 92%, and the
studentized one in 93 to 95% (normal, gamma and exponential values); it is wider by as much. Values with a longer tail
are covered less often, lognormal(0, 1) ones in 89%. Few values have so few distinct resamples that all of them are used
with their probabilities, so the interval has no random part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.95
"""Coverage of all intervals."""

ENUMERATED = 8
"""Largest number of values for which all resamples are used; there are 6,435 for eight values."""

RANDOM_RESAMPLES = 9_999
"""Number of resamples for more values than that."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval.

    Attributes:
        mean: Mean of the values.
        low: Lower end of the interval; not a number for a single value.
        high: Upper end of the interval; not a number for a single value.
        count: Number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def sign(self) -> int:
        """1 if the interval is above 0, -1 if it is below, and 0 if it includes 0 or there is none."""
        return int(self.low > 0) - int(self.high < 0)


def mean_interval(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Interval:
    """The mean of values with its 95% interval.

    Where at least 2.5% of the resamples are one value several times, as with two or three values or with many equal
    ones, a resample has no standard error often enough to matter, and the interval is that of Student's t.

    Args:
        values: One value for each seed.
        low: Smallest value that is possible, at which the interval ends at the latest.
        high: Largest value that is possible.

    Raises:
        ValueError: There are no values.
    """
    if len(values) == 0:
        raise ValueError("no values")
    sample = np.asarray(values, dtype=np.float64)
    count, mean = len(sample), float(sample.mean())
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    error = float(sample.std(ddof=1)) / math.sqrt(count)
    below, above = _studentized_quantiles(sample)
    return Interval(mean, max(low, mean - above * error), min(high, mean - below * error), count)


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], low: float = -math.inf, high: float = math.inf
) -> Interval | None:
    """The mean of `values` minus `reference` over the seeds that both have, with its 95% interval.

    Equal seeds share the order of the prompts. None if there is no common seed. `low` and `high` are the smallest and
    the largest difference that is possible.
    """
    differences = [value - reference[seed] for seed, value in sorted(values.items()) if seed in reference]
    return mean_interval(differences, low, high) if differences else None


def _studentized_quantiles(sample: Floats) -> tuple[float, float]:
    """The 2.5% and 97.5% quantiles of (mean of a resample - mean of the sample) / standard error of the resample."""
    count = len(sample)
    counts, weights = _resamples(count)
    centred = sample - sample.mean()
    means = counts @ centred / count
    variances = np.maximum(counts @ centred**2 / count - means**2, 0) * count / (count - 1)
    constant = variances <= 1e-12 * sample.var()
    if weights[constant].sum() >= (1 - LEVEL) / 2:
        tail = float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
        return -tail, tail
    errors = np.where(constant, 1, np.sqrt(variances / count))
    apart = np.abs(means) > 1e-6 * sample.std()  # a constant resample may be of a value that is the mean
    distances = np.where(constant, np.where(apart, np.copysign(np.inf, means), 0), means / errors)
    return _low_quantile(distances, weights), -_low_quantile(-distances, weights)


def _low_quantile(values: Floats, weights: Floats) -> float:
    """The smallest value at or below which at least 2.5% of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= (1 - LEVEL) / 2 - 1e-12
    return float(values[order][np.argmax(reached)])


@lru_cache
def _resamples(count: int) -> tuple[Floats, Floats]:
    """How often each value is in each resample, (resamples, count), and the resamples' probabilities."""
    if count > ENUMERATED:
        drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=RANDOM_RESAMPLES)
        return drawn.astype(np.float64), np.full(RANDOM_RESAMPLES, 1 / RANDOM_RESAMPLES)
    chosen = list(combinations_with_replacement(range(count), count))
    counts = np.array([[each.count(index) for index in range(count)] for each in chosen], dtype=np.float64)
    ways = [math.factorial(count) / math.prod(math.factorial(int(times)) for times in row) for row in counts]
    return counts, np.array(ways) / count**count
