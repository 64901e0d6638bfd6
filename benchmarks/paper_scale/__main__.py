"""`python -m benchmarks.paper_scale`: what the paper's run computes and waits for, by planner and scheduler alone."""

import random
import statistics
from collections.abc import Callable

from jsonargparse import CLI

from benchmarks.paper_scale.lengths import GROUP_SIZE, PROMPTS_PER_ITERATION, PROMPTS_PER_UPDATE, sampled_group
from benchmarks.paper_scale.rollouts import Engines, Rollouts, draws_on_need, fixed_draws
from benchmarks.paper_scale.updates import Work, packed_update, padded_update
from rence_lightning.sampling.curriculum.draws import DrawSize

Planner = Callable[[Work, list[tuple[int, tuple[int, ...]]], int, int], None]


def paper_scale(
    ranks: int = 8,
    budgets: tuple[int, ...] = (16384, 32768, 57344),
    slots: tuple[int, ...] = (64, 256),
    tokens_per_second: float = 40.0,
    iterations: int = 10,
    seed: int = 0,
) -> None:
    """Replays the paper's lengths, 512 prompts of 8 responses an iteration, through planner and scheduler.

    Args:
        ranks: Number of GPUs.
        budgets: Values of `trainer.micro_batch_tokens`.
        slots: Numbers of responses that an engine samples at a time.
        tokens_per_second: Tokens per second of one response; seconds are in proportion to it.
        iterations: Number of iterations that are replayed.
        seed: Seed of the lengths.
    """
    print(f"updates: {PROMPTS_PER_UPDATE} prompts x {GROUP_SIZE} responses on {ranks} ranks, {iterations} iterations\n")
    print_row(
        "tokens of a pass", "planner", "computed / real", "scored / real", "passes (ideal)", "busiest rank / mean"
    )
    print_row(*["---"] * 6)
    planners: dict[str, Planner] = {"padded": padded_update, "packed": packed_update}
    for budget in budgets:
        for name, planner in planners.items():
            work = updates(planner, budget, ranks, iterations, seed)
            print_row(
                f"{budget:,}",
                name,
                f"{work.computed / work.real:.3f}",
                f"{work.scored / work.real:.3f}",
                f"{statistics.mean(work.passes):.1f} ({statistics.mean(work.ideal):.1f})",
                f"{statistics.mean(work.busiest):.2f}",
            )
    print(f"\nrollouts: {PROMPTS_PER_ITERATION} groups on {ranks} ranks, {tokens_per_second:g} tokens/s a response\n")
    print_row("slots of a rank", "draws", "draws an iteration", "seconds", "seconds if no slot were idle", "lost")
    print_row(*["---"] * 6)
    for count in slots:
        engines = Engines(ranks, count, tokens_per_second)
        for name, measured in rollouts(engines, iterations, seed).items():
            seconds = statistics.mean(each.seconds for each in measured)
            ideal = statistics.mean(each.ideal for each in measured)
            draws = statistics.mean(each.draws for each in measured)
            lost = f"{seconds - ideal:.0f} s ({1 - ideal / seconds:.0%})"
            print_row(str(count), name, f"{draws:.1f}", f"{seconds:.0f}", f"{ideal:.0f}", lost)


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


def print_row(*cells: str) -> None:
    """Prints a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    CLI(paper_scale, as_positional=False)
