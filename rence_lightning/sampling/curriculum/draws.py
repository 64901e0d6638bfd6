"""The sizes of draws: as many prompts as should give the groups that an iteration still needs."""

import math
from typing import Any

FIRST_SHARE = 0.5
"""Share of groups that a run expects to keep before it has sampled any."""

WEIGHT = 8
"""Number of groups that the share of the previous iteration counts for, beside the groups of the current one."""

SPARE = 2.0
"""Number of standard deviations by which a draw is larger than needed on average. The prompts that turn out not to be
needed are hardly sampled at all, whereas a draw that is too small is followed by another, and each ends with engines
that wait for the longest responses."""

LARGEST = 8
"""Largest size of a draw, as a multiple of the number of groups in a batch."""


class DrawSize:
    """Decides how many prompts are drawn, from what is missing and from the share of groups that were kept so far.

    All decisions are functions of groups that count, so that they are the same on any number of ranks.

    Args:
        wanted: Number of groups in a batch, B.
        fixed: Size of every draw; None lets it follow need.
    """

    def __init__(self, wanted: int, fixed: int | None = None) -> None:
        self._wanted = wanted
        self._fixed = fixed
        self._share = FIRST_SHARE
        self._kept = self._counted = 0

    def record(self, kept: bool) -> None:
        """Counts a group."""
        self._kept += kept
        self._counted += 1

    def next(self) -> int:
        """The size of the next draw of this iteration."""
        if self._fixed is not None:
            return self._fixed
        missing, most = self._wanted - self._kept, LARGEST * self._wanted
        share = (self._kept + WEIGHT * self._share) / (self._counted + WEIGHT)
        if share == 0:
            return most
        # Of n groups, n * share are kept on average, with a variance of n * share * (1 - share).
        spare = SPARE * math.sqrt(missing * (1 - share))
        return min(math.ceil((missing + spare) / share), most)

    def end_iteration(self) -> None:
        """Makes the share of this iteration the estimate with which the next one starts."""
        if self._counted:
            self._share = self._kept / self._counted
        self._kept = self._counted = 0

    def state_dict(self) -> dict[str, Any]:
        """The state between iterations."""
        return {"share": self._share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._share = state["share"]
        self._kept = self._counted = 0
