"""What the updates of one iteration compute, by the project's planner and by the padded one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.paper_scale.padded_planner import padded_passes
from rence_lightning.training.batching import Shape, assign, computed_tokens, cut, plan_micro_batches


@dataclass
class Work:
    """Sums over updates.

    Attributes:
        real: Number of tokens, each prompt counted once.
        computed: Number of tokens that gradient passes compute.
        scored: Number of tokens that scoring passes compute.
        passes: For each update, the number of gradient passes of the rank with the most.
        ideal: For each update, its tokens divided by ranks and budget.
        busiest: For each update, the tokens of the rank with the most, relative to the mean.
    """

    real: int = 0
    computed: int = 0
    scored: int = 0
    passes: list[int] = field(default_factory=list)
    ideal: list[float] = field(default_factory=list)
    busiest: list[float] = field(default_factory=list)

    def add(self, real: int, by_rank: list[list[int]], scored: int, budget: int) -> None:
        """Adds an update, given the tokens of each pass of each rank."""
        loads = [sum(passes) for passes in by_rank]
        self.real += real
        self.computed += sum(loads)
        self.scored += scored
        self.passes.append(max(map(len, by_rank)))
        self.ideal.append(real / len(by_rank) / budget)
        self.busiest.append(max(loads) * len(loads) / sum(loads))


def packed_update(work: Work, shapes: Sequence[Shape], budget: int, ranks: int) -> None:
    """Adds an update by the project's planner, with an objective that couples responses."""
    real = sum(prompt + sum(responses) for prompt, responses in shapes)
    by_rank, scored = [], 0
    for indices in assign([prompt + sum(responses) for prompt, responses in shapes], ranks):
        own = [shapes[index] for index in indices]
        by_rank.append([computed_tokens(own, row) for row in plan_micro_batches(own, budget)])
        pieces = [cut(own, group, budget) for group in range(len(own))]
        scored += sum(computed_tokens(own, [piece]) for parts in pieces if len(parts) > 1 for piece in parts)
    work.add(real, by_rank, scored, budget)


def padded_update(work: Work, shapes: Sequence[Shape], budget: int, ranks: int) -> None:
    """Adds an update by the padded planner."""
    real = sum(prompt + sum(responses) for prompt, responses in shapes)
    by_rank, scored = [], 0
    weights = [sum(prompt + response for response in responses) for prompt, responses in shapes]
    for indices in assign(weights, ranks):
        passes, extra = padded_passes([shapes[index] for index in indices], budget)
        by_rank.append(passes)
        scored += extra
    work.add(real, by_rank, scored, budget)
