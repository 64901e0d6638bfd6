"""`python -m benchmarks.versus_trl`: the same GRPO work by TRL and by this project, in turns on one machine."""

import importlib.util
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import CLI

from benchmarks.machine import describe, matrix_product_rate
from benchmarks.markdown import header, row, save
from benchmarks.versus_trl import ours
from benchmarks.versus_trl.cases import CASES, Case
from benchmarks.versus_trl.floor import iteration_flops
from benchmarks.versus_trl.timing import PARTS, IterationTime
from rence_lightning.errors import UserError

TITLES = ["work", "trainer", "seconds an iteration", *PARTS, "tokens", "ratio to TRL", "floor", "times the floor"]


def versus_trl(
    cases: list[str] | None = None,
    iterations: int = 10,
    rounds: int = 2,
    threads: int | None = None,
    old_log_probs: ours.Source = "engine",
    output: Path | None = None,
) -> None:
    """Times both trainers in turns: a round of TRL, a round of this project, and so on, in one process.

    Both sample, grade and train on the same prompts with the same policy in float32, with the same number of updates.
    The first iteration of each round warms up and is not counted. Times are medians, with the lowest and the highest.
    The floor is the time of the matrix products with the weights at the rate that the machine reaches in this run.

    Args:
        cases: Names of the work to compare (default: all): demo-forced, demo-natural, smollm2-forced, smollm2-natural.
        iterations: Number of iterations of each trainer that are counted, over all rounds.
        rounds: Number of rounds.
        threads: Number of threads (default: torch's choice, one per core).
        old_log_probs: Source of log pi_old in this project: `engine` takes the log-probabilities of the samples, which
            are exact in float32; `recompute` takes a forward pass, as TRL always does.
        output: Markdown file to which the table is written as well.
    """
    chosen = _check(cases, iterations, rounds)
    if threads is not None:
        torch.set_num_threads(threads)
    machine = describe(("torch", "transformers", "trl", "lightning"))
    lines = [f"{machine} Source of log pi_old in this project: {old_log_probs}.", "", header(TITLES)]
    print("\n".join(lines), flush=True)
    for case in chosen:
        new = compare(case, iterations // rounds, rounds, old_log_probs)
        print("\n".join(new), flush=True)
        lines += new
        save("\n".join(lines), output)


def _check(cases: list[str] | None, iterations: int, rounds: int) -> list[Case]:
    """The chosen cases, if the arguments are valid and TRL is installed."""
    if rounds < 1 or iterations < rounds or iterations % rounds:
        raise UserError(f"--iterations {iterations} is not a multiple of --rounds {rounds}, which must be >= 1")
    known = [case.name for case in CASES]
    if unknown := sorted(set(cases or ()) - set(known)):
        raise UserError(f"--cases: no case {', '.join(unknown)}; choose of {', '.join(known)}")
    if importlib.util.find_spec("trl") is None:
        raise UserError("TRL is not installed; pip install -e '.[bench]', or make versus-trl")
    return [case for case in CASES if cases is None or case.name in cases]


def compare(case: Case, iterations: int, rounds: int, old_log_probs: ours.Source = "engine") -> list[str]:
    """The two rows of a case.

    Raises:
        RuntimeError: The trainers did not sample the same prompts, token by token.
    """
    from benchmarks.versus_trl import theirs

    times: dict[str, list[IterationTime]] = {"TRL": [], "ours": []}
    rate = 0.0
    for _ in range(rounds):
        rate = max(rate, matrix_product_rate())
        times["TRL"] += theirs.run(case, iterations)
        times["ours"] += ours.run(case, iterations, old_log_probs)
    for number, (their, our) in enumerate(zip(times["TRL"], times["ours"], strict=True), start=1):
        if their.prompts != our.prompts:
            raise RuntimeError(f"{case.name}: the prompts of iteration {number} are not the same in TRL and here")
    return result_rows(
        case.name, times, {name: iteration_flops(case.load(), each) for name, each in times.items()}, rate
    )


def result_rows(case: str, times: dict[str, list[IterationTime]], flops: dict[str, float], rate: float) -> list[str]:
    """A row for each trainer.

    Args:
        case: Name of the work.
        times: Iterations of each trainer; TRL's are the reference.
        flops: Floating point operations of a mean iteration of each trainer.
        rate: Floating point operations per second that the machine reaches.
    """
    medians = {name: statistics.median(each.total for each in measured) for name, measured in times.items()}
    return [
        row(
            [
                case,
                name,
                f"{medians[name]:.2f} ({min(t.total for t in each):.2f} to {max(t.total for t in each):.2f})",
                *(f"{statistics.median(t.parts[part] for t in each):.2f}" for part in PARTS),
                f"{_mean([t.prompt_tokens for t in each]):.0f} + {_mean([t.response_tokens for t in each]):.0f}",
                f"{medians['TRL'] / medians[name]:.2f}",
                f"{flops[name] / rate:.2f} s",
                f"{medians[name] * rate / flops[name]:.1f}",
            ]
        )
        for name, each in times.items()
    ]


def _mean(values: Sequence[int]) -> float:
    return statistics.mean(map(float, values))


def main() -> None:
    try:
        CLI(versus_trl, as_positional=False)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
