"""The loggers of every run: `metrics.csv` and TensorBoard events."""

import csv
from pathlib import Path

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
        self._experiment = writer = _Writer(self.log_dir)
        if Path(writer.metrics_file_path).exists():
            columns, rows = writer.read()
            writer.replace(columns, [row for row in rows if int(row["step"]) <= self._steps_done])


class _Writer(ExperimentWriter):
    """Lightning's writer, except that the file is replaced as a whole when a new column changes the header."""

    def read(self) -> tuple[list[str], list[dict[str, str]]]:
        with Path(self.metrics_file_path).open(newline="") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), list(reader)

    def replace(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        self.metrics_keys = columns
        with rewritten(Path(self.metrics_file_path)) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(rows)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self.replace(fieldnames, self.read()[1])

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
