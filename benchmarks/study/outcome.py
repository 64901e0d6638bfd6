"""The outcome of a run, as one line of a file of results."""

import json
import math
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np

from rence_lightning.errors import UserError

STUDIES = ("tables", "when")
SPLITS = ("validation", "test", "repeat")
BUDGETS = ("responses", "updates")
"""What is held equal when methods are compared: responses sampled in training, or optimizer updates."""


@dataclass(frozen=True)
class Point:
    """A policy during training, and how much training it has had.

    Attributes:
        iteration: Number of completed iterations.
        updates: Number of optimizer updates.
        responses: Number of responses sampled in training.
        cpu_seconds: User and system seconds of the run's process up to this point, without evaluations and without
            the processes that grade.
        accuracy: Sampled pass@1, from 0 to 1.
    """

    iteration: int
    updates: int
    responses: int
    cpu_seconds: float
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run of a study.

    Attributes:
        study: Study of the run: "tables" or "when".
        task: Name of the task.
        method: Name of the method; the row that is not trained has an empty `at`.
        learning_rate: Learning rate of the optimizer; None for a method that is not trained.
        split: Purpose of the run: "validation" (choice of the learning rate), "test", or "repeat" (rows of the test
            split again, on seeds not used before).
        seed: Seed of the order of the prompts and of sampling.
        start: Sampled pass@1 before training, from 0 to 1.
        question: Setting that the study "when" varies; empty in the study "tables".
        level: Value of that setting; empty in the study "tables".
        curve: Evaluations of the run in the order of training.
        at: Policy at which each budget, "responses" and "updates", is spent. For a run that diverged or starved, the
            policy of its last evaluation.
        error: Message of a run that diverged or starved; empty otherwise.
        command: Command that started the run.
        cpu_seconds: User and system seconds of the whole run.
        commit: Commit of the code that ran.
        processor: Name of the processor.
        inputs: Digest of the start policy and the problems.
    """

    study: str
    task: str
    method: str
    learning_rate: float | None
    split: str
    seed: int
    start: float
    question: str = ""
    level: str = ""
    curve: tuple[Point, ...] = ()
    at: Mapping[str, Point] = field(default_factory=dict)
    error: str = ""
    command: tuple[str, ...] = ()
    cpu_seconds: float = 0.0
    commit: str = ""
    processor: str = ""
    inputs: str = ""

    @property
    def trained(self) -> bool:
        return bool(self.at)

    def interpolated(self, budget: str, size: int) -> float:
        """The accuracy where exactly so much of a budget is spent, on the line between the evaluations around it.

        It is that of the last evaluation for a run that ended before.
        """
        points = [(0, self.start), *((getattr(point, budget), point.accuracy) for point in self.curve)]
        spent, accuracies = zip(*points, strict=True)
        return float(np.interp(size, spent, accuracies))

    @property
    def short_error(self) -> str:
        """The beginning of `error`, for a line of a page."""
        return textwrap.shorten(self.error.replace("|", "/"), 140, placeholder=" ...")

    def accuracy(self, budget: str) -> float:
        """The accuracy when a budget is spent; before training, for a run that is not trained."""
        return self.at[budget].accuracy if self.trained else self.start


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of a file of JSON lines, or of all files `*.jsonl` of a folder in the order of their names.

    Raises:
        UserError: The path is missing, or a line is not an outcome: a key is missing or unknown, or its value has the
            wrong type or is out of range. The message names the file and the line.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; run the study first")
    outcomes = []
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                outcomes.append(_outcome(json.loads(line)))
            except ValueError as error:  # json's error is one too
                raise UserError(f"{file}:{number}: {error}") from error
    return outcomes


def provenance(outcomes: Sequence[Outcome]) -> str:
    """The commits and the processors of runs with their numbers, as text."""
    runs = distinct(outcomes)
    counts = (Counter(getattr(each, name) or "unknown" for each in runs) for name in ("commit", "processor"))
    commits, processors = (", ".join(f"{name} ({count} runs)" for name, count in each.items()) for each in counts)
    return f"commits {commits}; processors {processors}, one thread a run"


def distinct(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Each run once: what is the same in several studies, tasks or levels is run once, and has an outcome in each."""
    return list({each.command: each for each in outcomes}.values())


def append_outcome(path: Path, outcome: Outcome) -> None:
    """Appends an outcome to a file of JSON lines, as one line, which is on the disk when the call returns.

    Processes may append to a file at the same time: the operating system writes each line as a whole.

    Raises:
        UserError: The outcome has a value of the wrong type or out of range.
        OSError: The line could not be written as a whole.
    """
    values = json.loads(json.dumps(asdict(outcome)))
    try:
        _outcome(values)
    except ValueError as error:
        raise UserError(f"{path}: the outcome of {outcome.method}, seed {outcome.seed}: {error}") from error
    line = (json.dumps(values) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(file, line) != len(line):
            raise OSError(f"{path}: the disk is full; remove the incomplete last line")
        os.fsync(file)
    finally:
        os.close(file)


def _outcome(values: Any) -> Outcome:
    """Raises ValueError, whose message names the key."""
    outcome = Outcome(**checked(values, Outcome, _OUTCOME, ""))
    for key, allowed in (("study", STUDIES), ("split", SPLITS)):
        if (value := getattr(outcome, key)) not in allowed:
            raise ValueError(f"{key}: {value!r}; choose from {', '.join(allowed)}")
    if (outcome.study == "when") != bool(outcome.question) or bool(outcome.question) != bool(outcome.level):
        raise ValueError('question and level: both in the study "when", neither in the study "tables"')
    if not 0 <= outcome.start <= 1:
        raise ValueError(f"start: {outcome.start}; it must be from 0 to 1")
    if outcome.at and set(outcome.at) != set(BUDGETS):
        raise ValueError(f"at: the keys {', '.join(outcome.at)}; it must have {', '.join(BUDGETS)}, or none")
    if bool(outcome.at) != (outcome.learning_rate is not None):
        raise ValueError("at and learning_rate: both for a method that is trained, neither for one that is not")
    return Outcome(
        **{
            **vars(outcome),
            "command": tuple(outcome.command),
            "curve": tuple(_point(each, f"curve[{number}].") for number, each in enumerate(outcome.curve)),
            "at": {budget: _point(outcome.at[budget], f"at.{budget}.") for budget in outcome.at},
        }
    )


def _point(values: Any, where: str) -> Point:
    point = Point(**checked(values, Point, _POINT, where))
    if not 0 <= point.accuracy <= 1:
        raise ValueError(f"{where}accuracy: {point.accuracy}; it must be from 0 to 1")
    if min(point.iteration, point.updates, point.responses, point.cpu_seconds) < 0:
        raise ValueError(f"{where[:-1]}: a number below 0")
    return point


_NUMBER = int | float
_POINT: dict[str, type | UnionType] = {
    **dict.fromkeys(("iteration", "updates", "responses"), int),
    **dict.fromkeys(("cpu_seconds", "accuracy"), _NUMBER),
}
_OUTCOME: dict[str, type | UnionType] = {
    **dict.fromkeys(
        ("study", "task", "method", "split", "question", "level", "error", "commit", "processor", "inputs"), str
    ),
    **dict.fromkeys(("start", "cpu_seconds"), _NUMBER),
    "seed": int,
    "learning_rate": _NUMBER | None,
    "curve": list,
    "command": list,
    "at": dict,
}


def checked(values: Any, kind: type, types: Mapping[str, type | UnionType], where: str) -> dict[str, Any]:
    """The values of a JSON object, if its keys are the fields of `kind` and the values have the types.

    Args:
        values: Parsed JSON.
        kind: Dataclass whose fields are the keys.
        types: Type of each field.
        where: Beginning of the names of keys in messages.

    Raises:
        ValueError: A key is missing or unknown, or its value has the wrong type; the message names it.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}{values!r} is not an object with the keys {', '.join(types)}")
    names = [each.name for each in fields(kind)]
    for problem, keys in (("missing", set(names) - set(values)), ("unknown", set(values) - set(names))):
        if keys:
            raise ValueError(f"{problem}: {', '.join(where + key for key in sorted(keys))}")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, types[key]):
            raise ValueError(f"{where}{key}: {value!r} has the wrong type")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}{key}: {value} is not finite")
    return values
