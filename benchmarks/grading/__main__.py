"""`python -m benchmarks.grading`: accuracy, false accepts and misses of the grader and of plain math-verify."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from rence_lightning.rewards.grading.equivalence import equivalent, quick_verdict

LABELLED = Path(__file__).parent / "labelled.txt"


@dataclass(frozen=True)
class Pair:
    """A reference answer, a prediction, and whether they are the same."""

    category: str
    gold: str
    prediction: str
    same: bool


def read_pairs(path: Path = LABELLED) -> Iterator[Pair]:
    """The labelled pairs of a file."""
    category = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            category = line[1:-1]
            continue
        label, gold, prediction = line.split(" ## ")
        if label not in ("same", "differ"):
            raise ValueError(f"{path}, line {number}: the verdict is {label!r}, not `same` or `differ`")
        yield Pair(category, gold, prediction, label == "same")


def ours(gold: str, prediction: str) -> bool:
    quick = quick_verdict(gold, prediction)
    return equivalent(gold, prediction) if quick is None else quick


def math_verify_alone(gold: str, prediction: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    left, right = (parse(f"\\boxed{{{answer}}}", targets) for answer in (gold, prediction))
    return bool(verify(left, right))


def grading(file: Path = LABELLED, show: bool = False) -> None:
    """Compares the grader with plain math-verify.

    Args:
        file: Labelled pairs; the first lines of labelled.txt say how they are written.
        show: Print what the grader gets wrong.
    """
    pairs = list(read_pairs(file))
    graders: dict[str, Callable[[str, str], bool]] = {"rence_lightning": ours, "math-verify": math_verify_alone}
    table = Table(
        title=f"{len(pairs)} pairs, {sum(pair.same for pair in pairs)} of them the same", title_justify="left"
    )
    for column in (
        "category",
        "pairs",
        *(f"{name}: {what}" for name in graders for what in ("missed", "false accepts")),
    ):
        table.add_column(column, justify="left" if column == "category" else "right")
    verdicts: dict[str, list[bool]] = {}
    slowest: dict[str, float] = {}
    for name, grader in graders.items():
        grader("1/2", "0.5")  # loads the parsers
        verdicts[name], slowest[name] = [], 0.0
        for pair in pairs:
            start = time.perf_counter()
            verdicts[name].append(grader(pair.gold, pair.prediction))
            slowest[name] = max(slowest[name], time.perf_counter() - start)
    for category in [*dict.fromkeys(pair.category for pair in pairs), "all"]:
        rows = [i for i, pair in enumerate(pairs) if category in (pair.category, "all")]
        cells = []
        for name in graders:
            cells.append(str(sum(pairs[i].same and not verdicts[name][i] for i in rows)))
            cells.append(str(sum(verdicts[name][i] and not pairs[i].same for i in rows)))
        table.add_row(category, str(len(rows)), *cells)
    Console(width=150).print(table)
    for name in graders:
        right = sum(verdict == pair.same for verdict, pair in zip(verdicts[name], pairs, strict=True))
        print(f"{name}: accuracy {right / len(pairs):.3f}, slowest pair {slowest[name]:.2f} s")
    for verdict, pair in zip(verdicts["rence_lightning"], pairs, strict=True) if show else ():
        if verdict != pair.same:
            print(f"{'missed' if pair.same else 'FALSE ACCEPT'}  {pair.gold}  ##  {pair.prediction}")


def main() -> None:
    parser = ArgumentParser(description=grading.__doc__)
    parser.add_function_arguments(grading)
    grading(**parser.parse_args().as_dict())


if __name__ == "__main__":
    main()
