"""`python -m benchmarks.grading`: accuracy, false accepts and misses of the grader and of plain math-verify."""

import time
from collections.abc import Callable
from pathlib import Path

from jsonargparse import CLI
from rich.console import Console
from rich.table import Table

from benchmarks.grading.pairs import LABELLED, Pair, read_pairs
from rence_lightning.rewards.grading.equivalence import equivalent, quick_verdict


def ours(gold: str, prediction: str) -> bool:
    quick = quick_verdict(gold, prediction)
    return equivalent(gold, prediction) if quick is None else quick


def math_verify_alone(gold: str, prediction: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    left, right = (parse(f"\\boxed{{{answer}}}", targets) for answer in (gold, prediction))
    return bool(verify(left, right))


GRADERS: dict[str, Callable[[str, str], bool]] = {"rence_lightning": ours, "math-verify": math_verify_alone}


def grading(file: Path = LABELLED, show: bool = False) -> None:
    """Compares the grader with plain math-verify.

    Args:
        file: Labelled pairs; the first lines of labelled.txt say how they are written.
        show: Whether to print the pairs that the grader gets wrong.
    """
    pairs = list(read_pairs(file))
    verdicts: dict[str, list[bool]] = {}
    slowest: dict[str, float] = {}
    for name in GRADERS:
        verdicts[name], slowest[name] = _judge(GRADERS[name], pairs)
    Console(width=150).print(_mistakes(pairs, verdicts))
    for name in GRADERS:
        right = sum(verdict == pair.same for verdict, pair in zip(verdicts[name], pairs, strict=True))
        print(f"{name}: accuracy {right / len(pairs):.3f}, slowest pair {slowest[name]:.2f} s")
    for verdict, pair in zip(verdicts["rence_lightning"], pairs, strict=True) if show else ():
        if verdict != pair.same:
            print(f"{'missed' if pair.same else 'FALSE ACCEPT'}  {pair.gold}  ##  {pair.prediction}")


def _judge(grader: Callable[[str, str], bool], pairs: list[Pair]) -> tuple[list[bool], float]:
    """The verdicts of a grader, and the seconds of the slowest one."""
    grader("1/2", "0.5")  # loads the parsers
    verdicts, slowest = [], 0.0
    for pair in pairs:
        start = time.perf_counter()
        verdicts.append(grader(pair.gold, pair.prediction))
        slowest = max(slowest, time.perf_counter() - start)
    return verdicts, slowest


def _mistakes(pairs: list[Pair], verdicts: dict[str, list[bool]]) -> Table:
    title = f"{len(pairs)} pairs, {sum(pair.same for pair in pairs)} of them the same"
    table = Table(title=title, title_justify="left")
    mistakes = [f"{name}: {mistake}" for name in verdicts for mistake in ("missed", "false accepts")]
    for column in ("category", "pairs", *mistakes):
        table.add_column(column, justify="left" if column == "category" else "right")
    for category in [*dict.fromkeys(pair.category for pair in pairs), "all"]:
        rows = [i for i, pair in enumerate(pairs) if category in (pair.category, "all")]
        cells = []
        for given in verdicts.values():
            cells.append(str(sum(pairs[i].same and not given[i] for i in rows)))
            cells.append(str(sum(given[i] and not pairs[i].same for i in rows)))
        table.add_row(category, str(len(rows)), *cells)
    return table


if __name__ == "__main__":
    CLI(grading, as_positional=False)
