"""The loggers of every run, `metrics.csv` and TensorBoard events, and tables for loggers that take them."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from rence_lightning.run.directory import rewritten


class ResumableCSVLogger(CSVLogger):
    """Writes `metrics.csv` directly into a run directory, and continues it when the run is resumed.

    Args:
        run_dir: Path of the run directory.
        steps_done: Number of updates done at the checkpoint; rows of later updates are dropped, because the resumed run
            takes those updates again.
    """

    def __init__(self, run_dir: Path, steps_done: int) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)
        self._steps_done = steps_done

    def attach(self) -> None:
        """Opens the file; call it on rank zero only."""
        file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        self._experiment = _Writer(self.log_dir)
        if file.exists():
            with file.open(newline="") as lines:
                rows = csv.DictReader(lines)
                kept = [row for row in rows if int(row["step"]) <= self._steps_done]
                self._experiment.replace(list(rows.fieldnames or ()), kept)


class _Writer(ExperimentWriter):
    """Lightning's writer, except that the file is replaced as a whole when a new column changes the header."""

    def replace(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        self.metrics_keys = columns
        with rewritten(Path(self.metrics_file_path)) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(rows)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with Path(self.metrics_file_path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.replace(fieldnames, rows)

    def _check_log_dir_exists(self) -> None:
        """Does nothing, because a run directory holds other files as well, which is no reason for a warning."""


def run_loggers(run_dir: Path, steps_done: int, extra: list[Logger], is_global_zero: bool) -> list[Logger]:
    """The two loggers of every run, and those that the configuration adds."""
    metrics = ResumableCSVLogger(run_dir, steps_done)
    if is_global_zero:
        metrics.attach()
    # Updates that an earlier session logged after its last checkpoint are taken again, perhaps with other results.
    events = TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=steps_done + 1)
    return [metrics, events, *extra]


@runtime_checkable
class TableLogger(Protocol):
    """A logger that takes tables, such as Lightning's `WandbLogger` and `rence_lightning.run.TrackioLogger`."""

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], *, step: int | None) -> None:
        """Sends a table.

        Args:
            key: Name of the table.
            columns: Headings of the columns.
            data: Rows, each with a number, a text, a Boolean or None for each column.
            step: Number of updates done.
        """


def log_table(
    loggers: Iterable[Logger], key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], step: int
) -> None:
    """Sends a table to those of the loggers that take tables; call it on rank zero only.

    Args:
        loggers: Loggers of the run.
        key: Name of the table.
        columns: Headings of the columns.
        rows: Rows, each with a number, a text, a Boolean or None for each column.
        step: Number of updates done.
    """
    takers = [logger for logger in loggers if isinstance(logger, TableLogger)]
    data = [[_printable(cell) for cell in row] for row in rows] if takers else []
    for taker in takers:
        taker.log_table(key=key, columns=list(columns), data=data, step=step)


def _printable(cell: Any) -> Any:
    """A cell without lone surrogates, which model output may contain and UTF-8 cannot represent."""
    return cell.encode("utf-8", "replace").decode() if isinstance(cell, str) else cell
