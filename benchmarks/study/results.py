"""Results of runs, as lines of JSON."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from rence_lightning.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """A policy during training, its accuracy (sampled pass@1, from 0 to 1), and how much training it has had.

    `cpu_seconds` are those of the run's process, without evaluations and without the processes that grade.
    """

    iteration: int
    updates: int
    responses: int
    cpu_seconds: float
    accuracy: float

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1 or min(self.iteration, self.updates, self.responses) < 0:
            raise ValueError(f"{self}: the accuracy must be from 0 to 1, and no number below 0")


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a run of a study is.

    Attributes:
        study: "tables", or "when" for a level of a question.
        task: Name of the task.
        method: Name of the method.
        learning_rate: Learning rate of the optimizer; None for the policy that is not trained.
        split: Purpose of the run: "validation" (choice of the learning rate), "test", or "repeat" (the test once more,
            on seeds that were not used before).
        seed: Seed of the order of the prompts and of sampling.
        question: Question that the run is a level of; empty in the tables.
        level: Name of the level; empty in the tables.
    """

    study: str
    task: str
    method: str
    learning_rate: float | None
    split: str
    seed: int
    question: str = ""
    level: str = ""

    @property
    def labels(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(Label)}


@dataclass(frozen=True, kw_only=True)
class Outcome(Label):
    """The result of one run of a study.

    Attributes:
        start: Sampled pass@1 before training, from 0 to 1.
        curve: Evaluations of the run in the order of training.
        training: Figures of the iterations in their order: `responses`, `updates` and `cpu_seconds` so far, and what
            `benchmarks.study.budgets.FIGURES` names; none of runs before they were kept.
        at: Policy at which each budget is spent; empty for a run without training. For a run that diverged or starved,
            the policy of its last evaluation.
        error: Message of a run that diverged or starved; empty otherwise.
        command: Command that started the run, without its folder.
        cpu_seconds: User and system seconds of the whole run.
        commit: Commit of the code that ran.
        processor: Name of the processor.
        digest: Digest of the problems and of the policy's weights, where it was taken.
        inputs: The same by an earlier rule.
    """

    start: float
    curve: Sequence[Point] = field(default_factory=list)
    training: Sequence[Mapping[str, float]] = field(default_factory=list)
    at: Mapping[str, Point] = field(default_factory=dict)
    error: str = ""
    command: tuple[str, ...] = ()
    cpu_seconds: float = 0.0
    commit: str = ""
    processor: str = ""
    digest: str = ""
    inputs: str = ""

    def accuracy(self, budget: str) -> float:
        """The accuracy when a budget is spent; before training, for a run that is not trained."""
        return self.at[budget].accuracy if self.at else self.start


def read_outcomes(folder: Path) -> list[Outcome]:
    """The results of the studies in a folder; see `read_lines`."""
    return [each for study in ("tables", "when") for each in read_lines(folder / f"{study}.jsonl", _outcome)]


def read_lines(path: Path, make: Callable[[Any], T]) -> list[T]:
    """The results of a file in its order; none where it does not exist.

    Raises:
        UserError: A line is not a result; the message names the file and the line.
    """
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            results.append(make(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}:{number}: {error}; remove the line, and the run is repeated") from error
    return results


def _outcome(values: dict[str, Any]) -> Outcome:
    curve = [Point(**each) for each in values["curve"]]
    at = {budget: Point(**each) for budget, each in values["at"].items()}
    return Outcome(**{**values, "curve": curve, "at": at, "command": tuple(values["command"])})


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Appends a result to a file, as a line that is on the disk when the call returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
        file.flush()
        os.fsync(file.fileno())
