"""The runs of the recipes, as lines of a file of results."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType

from benchmarks.recipes.spec import HERE, Recipe
from benchmarks.study.outcome import checked
from rence_lightning.errors import UserError

RESULTS = HERE / "results" / "recipes.jsonl"


@dataclass(frozen=True)
class Result:
    """A finished run of a recipe.

    Attributes:
        name: Name of the recipe's entry.
        file: Configuration file whose evidence the run is.
        command: Command as users type it; the run had a seed, a run directory and a number of threads in addition.
        seed: Seed of the run.
        start: Accuracy of the evaluation before training, from 0 to 1.
        end: Accuracy of the last evaluation, from 0 to 1.
        iterations: Iterations of training before the last evaluation.
        cpu_seconds: User and system seconds of the process and of those that it started, evaluations included.
        wall_seconds: Seconds on the clock, which depend on what else the machine does.
        threads: Number of threads of the process.
        processor: Model name of the processor; the recipes are run without a GPU.
        versions: Versions of Python and of the packages.
        commit: Commit of the code that ran.
    """

    name: str
    file: str
    command: str
    seed: int
    start: float
    end: float
    iterations: int
    cpu_seconds: float
    wall_seconds: float
    threads: int
    processor: str
    versions: Mapping[str, str]
    commit: str


_NUMBER = int | float
_TYPES: dict[str, type | UnionType] = {
    **dict.fromkeys(("name", "file", "command", "processor", "commit"), str),
    **dict.fromkeys(("seed", "iterations", "threads"), int),
    **dict.fromkeys(("start", "end", "cpu_seconds", "wall_seconds"), _NUMBER),
    "versions": dict,
}


def read_results(path: Path) -> list[Result]:
    """The runs of a file, in its order; empty where it does not exist.

    Raises:
        UserError: A line is not a result; the message names the line and the key.
    """
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            result = Result(**checked(json.loads(line), Result, _TYPES, ""))
            if not (0 <= result.start <= 1 and 0 <= result.end <= 1):
                raise ValueError(f"start and end: {result.start}, {result.end}; they must be from 0 to 1")
            if min(result.iterations, result.cpu_seconds, result.wall_seconds) < 0 or result.threads < 1:
                raise ValueError("iterations, cpu_seconds, wall_seconds or threads: a number below its least")
        except ValueError as error:  # json's error is one too
            raise UserError(f"{path}:{number}: {error}; remove the line and run the recipe again") from error
        results.append(result)
    return results


def append_result(path: Path, result: Result) -> None:
    """Appends a run to a file, as one line, which is on the disk when the call returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def results_of(recipe: Recipe, results: Iterable[Result]) -> list[Result]:
    """The runs of a recipe by seed: those of its file with its command of today, the last one of each seed."""
    found = {each.seed: each for each in results if (each.file, each.command) == (recipe.file, recipe.command)}
    return [found[seed] for seed in recipe.seeds if seed in found]
