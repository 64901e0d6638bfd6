"""Files of rows, read row by row: JSON lines, CSV and parquet."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError, kind_of

Rows = Iterator[tuple[str, int, dict[str, Any]]]
"""The place of a row as text, its number from 1, and the row."""


def iter_file(path: str | Path) -> Rows:
    """The rows of a file; a `UserError` names the file, and the line that cannot be read."""
    path = Path(path).expanduser()
    readers = {".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".csv": _csv, ".parquet": _parquet}
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; give the path of a {', '.join(readers)} file (on the hub: HubProblems)")
    read = next((reader for suffix, reader in readers.items() if path.name.endswith(suffix)), None)
    if read is None:
        raise UserError(f"{path}: unknown kind of file; rename or convert it to {', '.join(readers)}")
    try:
        yield from read(path)
    except UserError:
        raise
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:  # errors of gzip and pyarrow are among them
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); is the file complete?") from error


def _json_lines(path: Path) -> Rows:
    # Lines are split as bytes and decoded one by one, so that the line of an undecodable byte is known.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                row = json.loads(text)
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8 (byte {error.start + 1} of the line); convert the file") from error
            except (ValueError, RecursionError) as error:
                # Not str(error), which contains a line number within this line.
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise UserError(f"{where}: not valid JSON ({reason}); each line must be one JSON object") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: {kind_of(row)} instead of a JSON object with fields")
            yield where, number, row


def _csv(path: Path) -> Rows:
    """The rows of a table whose first line names the columns. All values are text, so that `007` and `0.50` stay."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for number, row in enumerate(reader, start=1):
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise UserError(f"{where}: more values than columns; quote those with commas")
            yield where, number, row


def _parquet(path: Path) -> Rows:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", number, row
