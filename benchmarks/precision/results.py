"""Results as files of JSON lines."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError

Row = dict[str, Any]


class Results:
    """Rows of a file of JSON lines, which are told apart by their fields in `KEY`."""

    KEY = ("trajectory", "old", "new", "view")

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keys = {self._key(row) for row in read_results(path)} if path.exists() else set()

    def has(self, **fields: Any) -> bool:
        return self._key(fields) in self._keys

    def add(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._keys.add(self._key(row))

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[field] for field in self.KEY)


def read_results(path: Path) -> list[Row]:
    """The rows of a file of results.

    Raises:
        UserError: The file is missing.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the study first, or give the folder of its results") from error


def only(rows: Iterable[Row], **fields: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]
