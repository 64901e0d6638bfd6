"""Confidence intervals by resampling problems: the k responses to one problem are correlated and stay together."""

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 10_000
LEVEL = 0.95

CHUNK = 2**22
"""Largest number of counts that are in memory at a time (32 MiB)."""


def resampled_means(values: Tensor, seed: int = 0) -> Tensor:
    """Means over problems drawn with replacement.

    Shares of k responses take few distinct values, whatever the number of problems. How often each of them occurs in a
    resample is multinomial; drawing these counts gives the same distribution of means as drawing the problems one by
    one, at a cost that does not depend on their number.

    Args:
        values: One number for each problem, `(problems,)`; for a paired comparison, the difference of the two shares.
        seed: Seed of the random draws; equal seeds give equal results.

    Returns:
        The mean of each resample, `(RESAMPLES,)` float64.
    """
    levels, counts = np.unique(values.double().cpu().numpy(), return_counts=True)
    generator = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    chunk = max(1, CHUNK // len(levels))
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        drawn = generator.multinomial(len(values), counts / len(values), size=size)
        means[start : start + size] = (drawn * levels).sum(axis=1) / len(values)
    return torch.from_numpy(means)


def interval(means: Tensor) -> tuple[float, float]:
    """The percentile interval of resampled means, at confidence level `LEVEL`."""
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, tails).tolist()
    return low, high
