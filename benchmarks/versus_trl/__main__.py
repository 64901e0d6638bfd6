"""`python -m benchmarks.versus_trl`: the same GRPO work by TRL and by this project, in turns on one machine."""

import platform
import statistics
from importlib.metadata import version
from pathlib import Path

import torch
from jsonargparse import CLI

from benchmarks.versus_trl import ours
from benchmarks.versus_trl.cases import CASES, Case
from benchmarks.versus_trl.floor import iteration_flops, matrix_product_rate
from benchmarks.versus_trl.timing import PARTS, IterationTime
from rence_lightning.errors import UserError

HEADINGS = ["work", "trainer", "seconds an iteration", *PARTS, "tokens", "ratio to TRL", "times the floor"]


def versus_trl(
    cases: list[str] | None = None, iterations: int = 10, rounds: int = 2, output: Path | None = None
) -> None:
    """Times both trainers in turns: a round of TRL, a round of this project, and so on, in one process.

    Both sample, grade and train on the same prompts with the same policy in float32, with the same number of updates.
    The first iteration of each round warms up and is not counted. Times are medians, with the lowest and the highest.

    Args:
        cases: Names of the work to compare (default: all): demo-forced, demo-natural, smollm2-forced, smollm2-natural.
        iterations: Number of iterations of each trainer that are counted, over all rounds.
        rounds: Number of rounds.
        output: Markdown file to which the table is written as well.
    """
    if rounds < 1 or iterations % rounds:
        raise UserError(f"--iterations {iterations} is not a multiple of --rounds {rounds}")
    chosen = [case for case in CASES if cases is None or case.name in cases]
    if unknown := set(cases or ()) - {case.name for case in CASES}:
        raise UserError(f"--cases: no case {', '.join(sorted(unknown))}; choose of {', '.join(c.name for c in CASES)}")
    lines = [describe_machine(), "", row(HEADINGS), row(["---"] * len(HEADINGS))]
    print("\n".join(lines), flush=True)
    for case in chosen:
        new = compare(case, iterations // rounds, rounds)
        print("\n".join(new), flush=True)
        lines += new
        if output is not None:
            output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(case: Case, iterations: int, rounds: int) -> list[str]:
    """The two lines of a case."""
    from benchmarks.versus_trl import theirs

    times: dict[str, list[IterationTime]] = {"TRL": [], "ours": []}
    rate = 0.0
    for _ in range(rounds):
        times["TRL"] += theirs.run(case, iterations)
        times["ours"] += ours.run(case, iterations)
        rate = max(rate, matrix_product_rate())
    policy = case.load()
    median = {name: statistics.median(each.total for each in measured) for name, measured in times.items()}
    return [
        row(
            [
                case.name,
                name,
                f"{median[name]:.2f} ({min(t.total for t in each):.2f} to {max(t.total for t in each):.2f})",
                *(f"{statistics.median(t.parts[part] for t in each):.2f}" for part in PARTS),
                f"{statistics.mean(t.prompt_tokens for t in each):.0f} + "
                f"{statistics.mean(t.response_tokens for t in each):.0f}",
                f"{median['TRL'] / median[name]:.2f}",
                f"{median[name] * rate / iteration_flops(policy, each):.1f}",
            ]
        )
        for name, each in times.items()
    ]


def describe_machine() -> str:
    """One line about processor, threads and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "rence_lightning"))
    return f"{processor()}, {torch.get_num_threads()} threads, Python {platform.python_version()}; {versions}"


def processor() -> str:
    """The processor's name, as Linux gives it."""
    path = Path("/proc/cpuinfo")
    names = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return names[0].partition(": ")[2] if names else platform.processor() or platform.machine()


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    CLI(versus_trl, as_positional=False)
