"""Confidence intervals by resampling problems: the k responses to one problem stay together, as they are alike."""

import torch
from torch import Tensor

RESAMPLES = 10_000
LEVEL = 0.95


def resampled_means(values: Tensor, seed: int = 0) -> Tensor:
    """Means over problems drawn with replacement.

    Args:
        values: One number a problem, `(problems,)`.
        seed: Of the draws, which are the same each time.

    Returns:
        `(RESAMPLES,)` float64.
    """
    generator = torch.Generator().manual_seed(seed)
    values = values.double().cpu()
    means = [values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(RESAMPLES)]
    return torch.stack(means)


def interval(means: Tensor) -> tuple[float, float]:
    """The percentile interval at `LEVEL` of resampled means."""
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, tails).tolist()
    return low, high
