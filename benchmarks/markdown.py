"""Tables in Markdown."""

from collections.abc import Sequence
from pathlib import Path


def row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def header(titles: Sequence[str]) -> str:
    """The two lines above the rows of a table: its first column is aligned to the left, the others to the right."""
    return "\n".join([row(titles), row([":---", *["---:"] * (len(titles) - 1)])])


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A whole table.

    Args:
        titles: Titles of the columns.
        rows: Cells, as many in each row as there are titles.
    """
    if any(len(cells) != len(titles) for cells in rows):
        raise ValueError(f"a row of the table does not have {len(titles)} cells")
    return "\n".join([header(titles), *map(row, rows)])


def save(text: str, path: Path | None) -> None:
    """Writes a report, where a path is given; its folder is created."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
