"""`python -m benchmarks.paper_scale`: what the paper's run computes and waits for, by planner and scheduler alone."""

import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import CLI

from benchmarks.markdown import save, table
from benchmarks.paper_scale.lengths import GROUP_SIZE, PROMPTS_PER_ITERATION, PROMPTS_PER_UPDATE, sampled_group
from benchmarks.paper_scale.rollouts import Engines, Rollouts, draws_on_need, fixed_draws
from benchmarks.paper_scale.updates import Work, packed_update, padded_update
from rence_lightning.sampling.curriculum.draws import DrawSize

UPDATE_TITLES = [
    "tokens of a pass",
    "planner",
    "computed / real",
    "scored / real",
    "passes (ideal)",
    "busiest rank / mean",
]
ROLLOUT_TITLES = ["slots of a rank", "draws", "draws an iteration", "seconds", "seconds if no slot were idle", "lost"]

Planner = Callable[[Work, list[tuple[int, tuple[int, ...]]], int, int], None]


def paper_scale(
    ranks: int = 8,
    budgets: tuple[int, ...] = (16384, 32768, 57344),
    slots: tuple[int, ...] = (64, 256),
    tokens_per_second: float = 40.0,
    iterations: int = 10,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Replays the paper's lengths, 512 prompts of 8 responses an iteration, through planner and scheduler.

    Args:
        ranks: Number of GPUs.
        budgets: Values of `trainer.micro_batch_tokens`.
        slots: Numbers of responses that an engine samples at a time.
        tokens_per_second: Tokens per second of one response; seconds are in proportion to it.
        iterations: Number of iterations that are replayed.
        seed: Seed of the lengths.
        output: Markdown file to which the tables are written as well.
    """
    header = f"{iterations} iterations of {PROMPTS_PER_ITERATION} prompts x {GROUP_SIZE} responses, {ranks} ranks"
    of_updates = update_rows(budgets, ranks, iterations, seed)
    of_rollouts = rollout_rows(slots, ranks, tokens_per_second, iterations, seed)
    report = "\n\n".join(
        [
            f"Updates of {PROMPTS_PER_UPDATE} prompts; {header}.",
            table(UPDATE_TITLES, of_updates),
            f"Rollouts at {tokens_per_second:g} tokens/s a response; {header}.",
            table(ROLLOUT_TITLES, of_rollouts),
        ]
    )
    print(report)
    save(report, output)


def update_rows(budgets: Sequence[int], ranks: int, iterations: int, seed: int) -> list[list[str]]:
    """What updates compute: the padded planner against the project's, for each budget."""
    planners: dict[str, Planner] = {"padded": padded_update, "packed": packed_update}
    rows = []
    for budget in budgets:
        for name, planner in planners.items():
            work = updates(planner, budget, ranks, iterations, seed)
            passes = f"{statistics.mean(work.passes):.1f} ({statistics.mean(work.ideal):.1f})"
            shares = (work.computed / work.real, work.scored / work.real)
            busiest = f"{statistics.mean(work.busiest):.2f}"
            rows.append([f"{budget:,}", name, *(f"{share:.3f}" for share in shares), passes, busiest])
    return rows


def rollout_rows(
    slots: Sequence[int], ranks: int, tokens_per_second: float, iterations: int, seed: int
) -> list[list[str]]:
    """How long rollouts take: draws of a fixed size against those that follow need, for each number of slots."""
    rows = []
    for count in slots:
        for name, measured in rollouts(Engines(ranks, count, tokens_per_second), iterations, seed).items():
            seconds = statistics.mean(each.seconds for each in measured)
            ideal = statistics.mean(each.ideal for each in measured)
            draws = statistics.mean(each.draws for each in measured)
            lost = f"{seconds - ideal:.0f} s ({1 - ideal / seconds:.0%})"
            rows.append([str(count), name, f"{draws:.1f}", f"{seconds:.0f}", f"{ideal:.0f}", lost])
    return rows


def updates(planner: Planner, budget: int, ranks: int, iterations: int, seed: int) -> Work:
    """What the updates of some iterations compute."""
    draw, work = random.Random(seed), Work()
    for _ in range(iterations * PROMPTS_PER_ITERATION // PROMPTS_PER_UPDATE):
        groups = [sampled_group(draw) for _ in range(PROMPTS_PER_UPDATE)]
        planner(work, [(group.prompt, group.responses) for group in groups], budget, ranks)
    return work


def rollouts(engines: Engines, iterations: int, seed: int) -> dict[str, list[Rollouts]]:
    """The rollouts of some iterations with both kinds of draws, on the same distribution of groups."""
    fixed, cached, draw = [], 0, random.Random(seed)
    for _ in range(iterations):
        of_iteration, cached = fixed_draws(lambda: sampled_group(draw), engines, cached, PROMPTS_PER_ITERATION)
        fixed.append(of_iteration)
    draw, size = random.Random(seed), DrawSize(PROMPTS_PER_ITERATION)
    follows = [draws_on_need(lambda: sampled_group(draw), engines, size) for _ in range(iterations)]
    return {"of 512, the cache first": fixed, "follow need": follows}


if __name__ == "__main__":
    CLI(paper_scale, as_positional=False)
