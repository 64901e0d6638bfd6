"""All evaluations of a run as one table, for loggers that take tables."""

from collections.abc import Sequence
from typing import Any

Table = tuple[list[str], list[list[Any]]]
"""Headings of the columns, and rows with a cell for each."""


def history_table(history: Sequence[dict[str, Any]]) -> Table:
    """A row for each benchmark of each evaluation: the iteration, the benchmark and its figures, as shares in [0, 1].

    Args:
        history: Evaluations in the form of the lines of `evaluations.jsonl`: `iteration`, and `benchmarks` with the
            figures of each by name.

    Returns:
        The headings and the rows. A figure that a benchmark does not have is None.
    """
    named = [(line["iteration"], name, row) for line in history for name, row in line["benchmarks"].items()]
    figures = list(dict.fromkeys(figure for _, _, row in named for figure in row))
    rows = [[iteration, name, *(row.get(figure) for figure in figures)] for iteration, name, row in named]
    return ["iteration", "benchmark", *figures], rows
