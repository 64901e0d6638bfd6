"""Intervals of means over a few seeds: their coverage, a loop over all resamples, and their limits."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.statistics import mean_interval, paired_difference

FIVE = [0.71, 0.74, 0.725, 0.80, 0.69]


def test_the_interval_is_that_of_a_loop_over_all_ordered_resamples() -> None:
    count, mean, distances = len(FIVE), float(np.mean(FIVE)), []
    for resample in itertools.product(FIVE, repeat=count):
        error = np.std(resample, ddof=1) / math.sqrt(count)
        distance = float(np.mean(resample)) - mean
        distances.append(distance / error if len(set(resample)) > 1 else math.copysign(math.inf, distance))
    distances.sort()
    at = math.ceil(0.025 * len(distances)) - 1
    error = float(np.std(FIVE, ddof=1)) / math.sqrt(count)
    found = mean_interval(FIVE)
    assert found.low == pytest.approx(mean - distances[-1 - at] * error)
    assert found.high == pytest.approx(mean - distances[at] * error)
    assert (found.mean, found.count) == (pytest.approx(mean), 5)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda random, size: random.normal(size=size), 0.0),
        (lambda random, size: random.exponential(size=size), 1.0),
        (lambda random, size: random.beta(18, 2, size=size), 0.9),
    ],
)
def test_five_values_cover_the_mean_where_the_percentile_bootstrap_does_not(
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], mean: float
) -> None:
    samples = draw(np.random.default_rng(15), (2000, 5))
    ours = np.mean([mean in mean_interval(sample) for sample in samples])
    resamples = np.array(list(itertools.product(range(5), repeat=5)))
    ends = [np.percentile(sample[resamples].mean(1), [2.5, 97.5]) for sample in samples[:500]]
    percentile = np.mean([low <= mean <= high for low, high in ends])
    # Ours covers 93 to 95% in the long run; 2,000 samples have a standard error of 0.6%, and 500 one of 1.7%.
    assert ours >= 0.92 and percentile <= 0.87


def test_a_resample_of_the_mean_alone_is_at_distance_0() -> None:
    values = [-3.0, -1.0, 0.0, 1.0, 3.0]
    with np.errstate(all="raise"):
        found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((-found.high, -found.low)) and found.sign == 0


def test_few_and_many_values_have_the_interval_of_student() -> None:
    for values in ([0.2, 0.4], [0.2, 0.4, 0.5], [0.0, 0.0, 0.0, 0.0, 0.3]):
        found = mean_interval(values)
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high))
    many = np.random.default_rng(0).normal(size=200)
    low, high = stats.t.interval(0.95, 199, many.mean(), stats.sem(many))
    found = mean_interval(list(many))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_an_interval_ends_where_values_end_and_says_on_which_side_of_0_it_is() -> None:
    assert mean_interval([0.9, 1.0], 0, 1).high == 1 and mean_interval([0.0, 0.1], 0, 1).low == 0
    assert [mean_interval(values).sign for values in ([1, 1.1, 1.2], [-1, 1, 0.1], [-2, -2.1, -2.2])] == [1, 0, -1]
    same = mean_interval([0.5] * 5)
    assert (same.low, same.high) == (0.5, 0.5)
    one = mean_interval([0.5])
    assert one.mean == 0.5 and math.isnan(one.low) and one.sign == 0 and 0.5 not in one
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_differences_are_those_of_equal_seeds() -> None:
    values, reference = {0: 3.0, 1: 5.0, 2: 4.5, 7: 100.0}, {2: 2.0, 1: 3.0, 0: 0.5, 8: -50.0}
    assert paired_difference(values, reference) == mean_interval([2.5, 2.0, 2.5])
    assert paired_difference(values, {8: 1.0}) is None
