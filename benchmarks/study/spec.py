"""What `study.yaml` holds, which explains each field: methods, tasks, questions, and configurations of conf/."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rence_lightning.errors import UserError

REFERENCE = "ReNCE"
"""Method that the others are compared with."""

BUDGETS = ("responses", "updates")
"""What is held equal when methods are compared: responses sampled in training, or optimizer updates."""

Options = Mapping[str, Any]
"""Dotted keys of the command line, with their values."""


@dataclass(frozen=True)
class Method:
    """A method: what it changes in the base configuration (nothing: no training), and where the paper has it."""

    config: str = ""
    options: Options = field(default_factory=dict)
    tables: str = ""
    paper: float | None = None
    against: str = REFERENCE


@dataclass(frozen=True)
class Task:
    """A task: what its problems are, and what it changes in the configuration of all methods and of single ones, in
    budgets and in the choice of rates; and whether rows are repeated on it."""

    title: str
    about: str
    problems: str
    policy: str = "embedded:arithmetic"
    options: Options = field(default_factory=dict)
    of_method: Mapping[str, Options] = field(default_factory=dict)
    rates_of: str = ""
    budgets: Mapping[str, int] = field(default_factory=dict)
    learning_rates: Sequence[float] = ()
    extend: int | None = None
    repeat: bool = True


@dataclass(frozen=True)
class Level:
    """A level of a question: what it changes on a task, for all methods and for single ones."""

    task: str
    options: Options = field(default_factory=dict)
    of_method: Mapping[str, Options] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A setting that is varied, with its levels and the methods that are compared at each of them."""

    title: str
    about: str
    methods: Sequence[str]
    levels: Mapping[str, Level]


@dataclass(frozen=True)
class Recipe:
    """A configuration that is run as users run it, as an overlay of those of `base`."""

    title: str
    seeds: Sequence[int]
    base: Sequence[str] = ()


@dataclass(frozen=True)
class Spec:
    """All that is run."""

    base: str
    overlay: str
    budgets: Mapping[str, int]
    shares: Sequence[float]
    options: Options
    learning_rates: Sequence[float]
    extend: int
    selection_seeds: Sequence[int]
    seeds: Sequence[int]
    repeat_seeds: Sequence[int]
    repeated: Sequence[str]
    methods: Mapping[str, Method]
    tasks: Mapping[str, Task]
    questions: Mapping[str, Question]
    recipes: Mapping[str, Recipe]
    validation_share: float = 1
    curves: bool = False

    @property
    def main_tasks(self) -> list[str]:
        """The tasks of the tables, on which learning rates are chosen; the others have levels of questions only."""
        return [task for task, each in self.tasks.items() if not each.rates_of]

    @property
    def trained(self) -> list[str]:
        """The methods that are trained."""
        return [name for name, each in self.methods.items() if each.config]

    @property
    def untrained(self) -> str:
        """The policy before training, as a method."""
        return next(name for name, each in self.methods.items() if not each.config)

    def budgets_of(self, task: str, split: str = "test") -> Mapping[str, int]:
        """The budgets of the runs on a task."""
        share = self.validation_share if split == "validation" else 1
        return {name: round(share * size) for name, size in {**self.budgets, **self.tasks[task].budgets}.items()}

    def extensions(self, task: str) -> int:
        """How many further rates may be tried at either end of the first ones."""
        own = self.tasks[task].extend
        return self.extend if own is None else own

    def first_rates(self, task: str) -> Sequence[float]:
        """The learning rates that are tried first on a task."""
        return self.tasks[task].learning_rates or self.learning_rates

    def title(self, task: str, budget: str) -> str:
        """A task and a budget, as the title of a column."""
        return f"{self.tasks[task].title}, {self.size(task, budget)}"

    def size(self, task: str, budget: str) -> str:
        """A budget of a task with its size."""
        return f"{self.budgets_of(task)[budget]:,} {budget}"


def load_spec(path: Path) -> Spec:
    """Reads a specification.

    Raises:
        UserError: The file cannot be read, lacks a field, has an unknown one, or names a method or a task that it does
            not have.
    """
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        for each in text["questions"].values():
            each["levels"] = _all(Level, each["levels"])
        kinds = {"methods": Method, "tasks": Task, "questions": Question, "recipes": Recipe}
        spec = Spec(**{**text, **{key: _all(kind, text[key]) for key, kind in kinds.items()}})
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; see benchmarks/study/study.yaml") from error
    _check(spec, path)
    return spec


def _all(kind: type, entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kind(**(each or {})) for name, each in entries.items()}


def _check(spec: Spec, path: Path) -> None:
    for name, task in spec.tasks.items():
        if task.budgets.keys() - set(BUDGETS) or min(spec.budgets_of(name, "validation").values()) < 1:
            raise UserError(
                f"{path}: the budgets of {name} are {dict(task.budgets)}; give {' and '.join(BUDGETS)} >= 1"
            )
        if len(spec.first_rates(name)) < 2:
            raise UserError(f"{path}: {name} has fewer than two learning rates to choose from")
    levels = [level for each in spec.questions.values() for level in each.levels.values()]
    methods = [
        *spec.repeated,
        *(each.against for each in spec.methods.values()),
        *(name for each in spec.questions.values() for name in each.methods),
        *(name for level in levels for name in level.of_method),
        *(name for task in spec.tasks.values() for name in task.of_method),
    ]
    tasks = [*(each.rates_of for each in spec.tasks.values() if each.rates_of), *(level.task for level in levels)]
    for kind, names, known in (("method", methods, spec.methods), ("task", tasks, spec.tasks)):
        for name in names:
            if name not in known:
                raise UserError(f"{path}: no {kind} {name!r}; it has {', '.join(known)}")
