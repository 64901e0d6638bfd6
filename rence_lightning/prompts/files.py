"""Files of rows, read row by row: JSON lines and parquet."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.text import kind_of


def iter_file(path: str | Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields, for each row of a JSON lines or parquet file, its place as text, its number from 1, and the row."""
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; give the path of a .jsonl, .jsonl.gz or .parquet file")
    try:
        if path.name.endswith(".parquet"):
            yield from _iter_parquet(path)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _iter_json_lines(path)
        else:
            raise UserError(f"{path}: unknown kind of file; rename or convert it to .jsonl, .jsonl.gz or .parquet")
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise UserError(f"{path}: cannot be read ({error}); is the file complete?") from error


def _iter_json_lines(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    # Lines are split as bytes and decoded one by one, so that the line of an undecodable byte is known.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8 (byte {error.start + 1} of the line); convert the file") from error
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                # Not str(error), which contains a line number within this line.
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise UserError(f"{where}: not valid JSON ({reason}); each line must be one JSON object") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: {kind_of(row)} instead of a JSON object with fields")
            yield where, number, row


def _iter_parquet(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", number, row
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable parquet file ({reason})") from error
