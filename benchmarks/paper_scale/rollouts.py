"""How long the rollouts of an iteration take: draws, engines with slots, and ranks that wait for one another.

Each rank has slots that take the next response, in the order of the draw, as soon as they are free, and sample at a
constant rate. Reading prompts costs nothing here.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.paper_scale.lengths import PROMPTS_PER_ITERATION, Sampled
from rence_lightning.sampling.curriculum.draws import DrawSize


@dataclass(frozen=True)
class Engines:
    """The ranks' engines.

    Attributes:
        ranks: Number of ranks.
        slots: Number of responses that each samples at a time.
        rate: Tokens per second of a slot.
    """

    ranks: int
    slots: int
    rate: float

    def seconds(self, tokens: float) -> float:
        """Time in which all slots together sample so many tokens."""
        return tokens / (self.ranks * self.slots * self.rate)


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of an iteration.

    Attributes:
        seconds: Time until the batch is complete on all ranks.
        ideal: Time that its groups, those sampled up to the last one that is kept, would take with no slot ever idle.
        draws: Number of draws.
    """

    seconds: float
    ideal: float
    draws: int


def finish_times(groups: Sequence[Sampled], engines: Engines) -> list[float]:
    """When each group of a draw is finished, if none is cancelled. Those behind a group never delay it."""
    times = [0.0] * len(groups)
    for rank in range(engines.ranks):
        free = [0.0] * engines.slots
        for position in range(rank, len(groups), engines.ranks):
            for length in groups[position].responses:
                end = heapq.heappop(free) + length / engines.rate
                heapq.heappush(free, end)
                times[position] = max(times[position], end)
    return times


def draws_on_need(
    source: Callable[[], Sampled], engines: Engines, size: DrawSize, wanted: int = PROMPTS_PER_ITERATION
) -> Rollouts:
    """Draws whose size follows need, and that end when all groups up to the one that completes the batch are finished:
    what is sampled beyond it is cancelled as soon as it can no longer be in the batch."""
    seconds, tokens, kept, draws = 0.0, 0, 0, 0
    while kept < wanted:
        groups = [source() for _ in range(size.next())]
        times, counted = finish_times(groups, engines), 0
        for group in groups:
            counted += 1
            kept += group.kept
            tokens += sum(group.responses)
            size.record(group.kept)
            if kept == wanted:
                break
        seconds += max(times[:counted])
        draws += 1
    size.end_iteration()
    return Rollouts(seconds, engines.seconds(tokens), draws)


def fixed_draws(
    source: Callable[[], Sampled], engines: Engines, cached: int, draw: int, wanted: int = PROMPTS_PER_ITERATION
) -> tuple[Rollouts, int]:
    """Draws of a fixed size, each of which all ranks wait for, and before them one of the cached prompts alone; also
    returns the number of kept groups that are left over, whose prompts are cached."""
    seconds, tokens, kept, draws = 0.0, 0, 0, 0
    while kept < wanted:
        groups = [source() for _ in range(cached if cached and not draws else draw)]
        seconds += max(finish_times(groups, engines))
        for group in groups:
            if kept < wanted:
                tokens += sum(group.responses)
            kept += group.kept
        draws += 1
    return Rollouts(seconds, engines.seconds(tokens), draws), kept - wanted
