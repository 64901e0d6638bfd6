"""Confidence intervals by resampling problems: the k responses to one problem are correlated and stay together."""

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
