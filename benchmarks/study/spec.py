"""The specification of a study: its methods and tasks as files of options, its tables and questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study.outcome import BUDGETS
from rence_lightning.errors import UserError

REFERENCE = "ReNCE"
"""Method that the others are compared with."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: Name of the row.
        method: Method of the row, as outcomes name it; rows of several tables may share one.
        paper: Average over six benchmarks that the paper reports for Qwen3-4B, in percent; None if it has none.
    """

    label: str
    method: str
    paper: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper, or the family.

    Attributes:
        title: Title of the table.
        rows: Rows in the order of the table.
        reference: Method that the rows are compared with.
    """

    title: str
    rows: Sequence[Row]
    reference: str = REFERENCE


@dataclass(frozen=True)
class Question:
    """A question of the study "when it wins".

    Attributes:
        name: Name of the setting that varies, as outcomes have it.
        title: The question as a short phrase.
        about: A sentence that says what is varied.
        levels: Levels in the order of the axis.
        default: Level that all other questions have; empty if it is none of the levels.
    """

    name: str
    title: str
    about: str
    levels: Sequence[str]
    default: str = ""


@dataclass(frozen=True)
class Method:
    """A method: what it changes in the base configuration.

    Attributes:
        config: Configuration file; empty for the policy that is not trained.
        options: Dotted keys and values that the small scale needs in addition.
    """

    config: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSpec:
    """A task: where its problems are, and what it changes in the configuration of a method.

    Attributes:
        title: Title in tables and figures.
        about: A sentence about its problems.
        problems: Beginning of the names of the files of problems: `NAME-train.jsonl`, `NAME-test.jsonl`.
        policy: Policy to train: `embedded:NAME`, or the name of a folder beside the problems.
        options: Dotted keys and values.
        rates_of: Task whose chosen learning rates this one takes over; empty for a choice of its own.
        methods: Methods that are run; none for all.
    """

    title: str
    about: str
    problems: str
    policy: str = "embedded:arithmetic"
    options: Mapping[str, Any] = field(default_factory=dict)
    rates_of: str = ""
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """A level of a question.

    Attributes:
        task: Task of the level.
        options: Dotted keys and values that the level changes for every method.
        of_method: Dotted keys and values that it changes for one method, by its name.
    """

    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    of_method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class QuestionSpec:
    """A question, with its levels and the methods that are compared at each of them."""

    question: Question
    levels: Mapping[str, Level]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """Methods, tasks, tables and questions; `study.yaml` explains each field."""

    base: str
    overlay: str
    budgets: Mapping[str, int]
    shares: tuple[float, ...]
    options: Mapping[str, Any]
    learning_rates: tuple[float, ...]
    extend: int
    selection_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    repeat_seeds: tuple[int, ...]
    repeated: tuple[str, ...]
    methods: Mapping[str, Method]
    tasks: Mapping[str, TaskSpec]
    tables: tuple[Table, ...]
    questions: tuple[QuestionSpec, ...]

    def methods_of(self, task: str) -> tuple[str, ...]:
        """The methods of the tables on a task, each once, in the order of the tables."""
        rows = dict.fromkeys(row.method for table in self.tables for row in table.rows)
        wanted = self.tasks[task].methods
        return tuple(name for name in rows if not wanted or name in wanted or not self.methods[name].config)


def load_spec(path: Path) -> Spec:
    """Reads a specification.

    Raises:
        UserError: The file cannot be read, lacks a field, has an unknown one, or names a method or a task that it does
            not have.
    """
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        lists = ("shares", "learning_rates", "selection_seeds", "seeds", "repeat_seeds", "repeated")
        spec = Spec(
            **{
                **text,
                **{key: tuple(text[key]) for key in lists},
                "methods": {name: Method(**(each or {})) for name, each in text["methods"].items()},
                "tasks": {
                    name: TaskSpec(**{**each, "methods": tuple(each.get("methods", ()))})
                    for name, each in text["tasks"].items()
                },
                "tables": tuple(
                    Table(**{**each, "rows": tuple(Row(**row) for row in each["rows"])}) for each in text["tables"]
                ),
                "questions": tuple(_question(name, each) for name, each in text["questions"].items()),
            }
        )
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; see benchmarks/study/study.yaml") from error
    _check(spec, path)
    return spec


def _question(name: str, text: Mapping[str, Any]) -> QuestionSpec:
    levels = {str(level): Level(**each) for level, each in text["levels"].items()}
    question = Question(name, text["title"], text["about"], tuple(levels), str(text.get("default", "")))
    return QuestionSpec(question, levels, tuple(text["methods"]))


def _check(spec: Spec, path: Path) -> None:
    levels = [level for each in spec.questions for level in each.levels.values()]
    named: Sequence[tuple[str, str, Mapping[str, Any]]] = [
        *(("method", row.method, spec.methods) for table in spec.tables for row in table.rows),
        *(("method", table.reference, spec.methods) for table in spec.tables),
        *(("method", name, spec.methods) for each in spec.questions for name in each.methods),
        *(("method", name, spec.methods) for level in levels for name in level.of_method),
        *(("method", name, spec.methods) for each in spec.tasks.values() for name in each.methods),
        *(("method", name, spec.methods) for name in spec.repeated),
        *(("task", level.task, spec.tasks) for level in levels),
        *(("task", each.rates_of, spec.tasks) for each in spec.tasks.values() if each.rates_of),
        *(("level", each.question.default, each.levels) for each in spec.questions if each.question.default),
    ]
    for kind, name, known in named:
        if name not in known:
            raise UserError(f"{path}: no {kind} {name!r}; it has {', '.join(known)}")
    if set(spec.budgets) != set(BUDGETS) or spec.shares[-1:] != (1.0,):
        raise UserError(f"{path}: budgets must be {' and '.join(BUDGETS)}, and the last of the shares 1")
    if not spec.seeds or not spec.selection_seeds or len(spec.learning_rates) < 2:
        raise UserError(f"{path}: seeds and selection_seeds must not be empty; give at least two learning_rates")
