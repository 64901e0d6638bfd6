"""Confidence intervals: over problems by bootstrap, in which the k responses to one problem, which are correlated, stay
together; over seeds by Student's t, because bootstraps fail with few values (see `benchmarks/study/statistics.py`)."""

from collections.abc import Sequence
from math import sqrt, tan

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95


def resampled_means(values: Floats, seed: int = 0) -> Floats:
    """Means over problems drawn with replacement.

    Shares of k responses take few distinct values, whatever the number of problems. How often each of them occurs in a
    resample is multinomial; drawing these counts gives the same distribution of means as drawing the problems one by
    one, at a cost that does not depend on their number.

    Args:
        values: One number for each problem, `(problems,)`; for a paired comparison, the difference of the two shares.
        seed: Seed of the random draws; equal seeds give equal results.

    Returns:
        The mean of each resample, `(RESAMPLES,)`.
    """
    levels, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    means: Floats = (drawn * levels).sum(axis=1) / len(values)
    return means


def interval(means: Floats) -> tuple[float, float]:
    """The percentile interval of resampled means, at confidence level `LEVEL`."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of the mean of values, one for each of at least two seeds, at confidence level `LEVEL`."""
    freedom = len(values) - 1
    # With t = sqrt(freedom) tan(angle), the density of t becomes cos(angle) ** (freedom - 1), up to a factor.
    angles = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    within = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    t = sqrt(freedom) * tan(np.interp(LEVEL, within / within[-1], angles))
    mean, half = float(np.mean(values)), t * float(np.std(values, ddof=1)) / sqrt(len(values))
    return mean - half, mean + half
