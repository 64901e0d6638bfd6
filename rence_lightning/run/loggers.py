"""The loggers of every run: `metrics.csv`, and TensorBoard events beside it."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class ResumableCSVLogger(CSVLogger):
    """Writes `metrics.csv` straight into a run directory, and goes on with it when the run is resumed.

    Args:
        run_dir: The run directory.
        steps_done: Rows of later steps are dropped: the resumed run takes those steps again.
    """

    def __init__(self, run_dir: Path, steps_done: int) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)
        self._steps_done = steps_done

    def attach(self) -> None:
        """Opens the file; on rank zero only."""
        file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        earlier = []
        if file.exists():
            with file.open(newline="") as lines:
                earlier = [
                    {key: value for key, value in row.items() if value}
                    for row in csv.DictReader(lines)
                    if int(row["step"]) <= self._steps_done
                ]
            file.unlink()
        self._experiment = _Writer(self.log_dir)
        self._experiment.metrics = earlier  # type: ignore[assignment]
        self._experiment.save()


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """The run directory holds other things; that deserves no warning."""


def run_loggers(run_dir: Path, steps_done: int, extra: list[Logger], is_global_zero: bool) -> list[Logger]:
    """The run's own two loggers, and what the configuration adds."""
    metrics = ResumableCSVLogger(run_dir, steps_done)
    if is_global_zero:
        metrics.attach()
    # What an earlier life of the run logged after its last checkpoint happens again, perhaps differently.
    events = TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=steps_done + 1)
    return [metrics, events, *extra]
