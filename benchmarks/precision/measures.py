"""The figures of the study, as functions of log-probabilities and of weights."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Cast = Callable[[str, Tensor], Tensor]
"""A function of a weight's name and value that returns the weight as it is computed with."""


class Seen(NamedTuple):
    """What is seen of the true log-ratios of some sequences.

    Attributes:
        share: Slope through the origin of what is seen against what is true: 1 where all is seen, 0 where nothing is.
        scatter: Root mean square of what is left beside `share` times the true log-ratios, in units of the root mean
            square of the true log-ratios: the noise that is added.
    """

    share: float
    scatter: float


def seen(values: Sequence[float], true: Sequence[float]) -> Seen:
    """Compares log-ratios as they are computed with the true ones, a number for each sequence."""
    found, exact = torch.tensor(values, dtype=torch.float64), torch.tensor(true, dtype=torch.float64)
    share = (found @ exact) / (exact @ exact)
    return Seen(float(share), float((found - share * exact).norm() / exact.norm()))


def kl_k3(old: Tensor, new: Tensor) -> float:
    """KL(pi_old || pi_new) a token by the estimator k3, ratio - 1 - log ratio, on tokens sampled from pi_old.

    Args:
        old: Log-probabilities under pi_old, `(tokens,)`.
        new: Log-probabilities under pi_new, `(tokens,)`.
    """
    log_ratio = (new - old).double()
    return float((log_ratio.expm1() - log_ratio).mean())


class Movement(NamedTuple):
    """How far weights moved as they are computed with.

    Attributes:
        changed: Share of the weights whose cast value differs.
        projection: `<cast(new) - cast(old), new - old> / <new - old, new - old>`: 1 where the movement is seen whole.
    """

    changed: float
    projection: float


def movement(pairs: Iterable[tuple[str, Tensor, Tensor]], cast: Cast, cast_old: Cast | None = None) -> Movement:
    """Compares two versions of weights, as they are and as they are computed with.

    Args:
        pairs: Names of the weights, with their old and new values in float32.
        cast: Function that casts a weight.
        cast_old: Function that casts the old values (default: `cast`).
    """
    changed = total = 0
    along = squared = 0.0
    for name, old, new in pairs:
        difference = new - old
        moved = cast(name, new).float() - (cast_old or cast)(name, old).float()
        changed += int(moved.count_nonzero())
        total += moved.numel()
        along += float((moved * difference).sum(dtype=torch.float64))
        squared += float(difference.square_().sum(dtype=torch.float64))
    return Movement(changed / total, along / squared)
