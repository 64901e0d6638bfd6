"""What a report has to know beyond the outcomes: tables and questions, their names and order."""

from collections.abc import Sequence
from dataclasses import dataclass

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
