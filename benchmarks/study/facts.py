"""What a report has to know beyond the outcomes: names, order, budgets and how the study was run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    """

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Task:
    """A task of a study.

    Attributes:
        name: Name of the task, as outcomes have it.
        title: Title in tables and figures.
        about: A sentence about the problems, the sizes of the splits and the samples of an evaluation.
        budgets: Number of responses and of updates at which methods are compared, by the names of the budgets.
        measure: What the accuracy of this task is, for the axes of figures.
    """

    name: str
    title: str
    about: str
    budgets: Mapping[str, int]
    measure: str = "pass@1"


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
class Facts:
    """What a report has to know beyond the outcomes.

    Attributes:
        command: Command that ran the study.
        tasks: Tasks in the order of the report.
        tables: Tables of the study "tables".
        questions: Questions of the study "when it wins".
        methods: Methods of the study "when it wins", in the order of the legend; the reference is the first.
        machine: Processor, cores and versions of packages, as one line.
        notes: Further lines for the head of the page.
        reference: Method that the others are compared with.
    """

    command: str
    tasks: Sequence[Task]
    tables: Sequence[Table] = ()
    questions: Sequence[Question] = ()
    methods: Sequence[str] = ()
    machine: str = ""
    notes: Sequence[str] = field(default_factory=tuple)
    reference: str = REFERENCE
