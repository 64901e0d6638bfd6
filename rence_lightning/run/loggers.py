"""The loggers of every run, `metrics.csv` and TensorBoard events; and Trackio, which brings no logger for Lightning."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rence_lightning.errors import UserError, install_extra
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


class TrackioLogger(Logger):
    """Writes figures and the configuration to Trackio, the local-first experiment tracker (extra `trackio`).

    Args:
        project: Name of the project.
        name: Name of the run; null lets Trackio make one up.
        group: Name of a group of runs within the project.
        space_id: Space on the Hugging Face hub, as `user/name`, that shows the project; null keeps it on this machine.
        private: Whether a Space that is created is private.
        resume: Treatment of an existing run of this name: `never` starts another, `allow` continues it if there is one,
            `must` requires it.

    Raises:
        UserError: Trackio is not installed.
    """

    def __init__(
        self,
        project: str = "rence_lightning",
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        private: bool = True,
        resume: Literal["never", "allow", "must"] = "never",
    ) -> None:
        super().__init__()
        try:
            import trackio
        except ImportError as error:
            raise UserError(f"trainer.loggers: TrackioLogger needs trackio; {install_extra('trackio')}") from error
        self._settings: dict[str, Any] = {"project": project, "name": name, "group": group, "resume": resume}
        if space_id is not None:
            self._settings |= {"space_id": space_id, "private": private}
        self._config: dict[str, Any] = {}
        self._init = trackio.init
        self._run: trackio.Run | None = None

    @property
    def name(self) -> str:
        return str(self._settings["project"])

    @property
    def version(self) -> str | None:
        return self._settings["name"]

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keeps settings for the configuration that Trackio is sent with the first figures."""
        self._config.update(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._run is None:
            self._run = self._init(**self._settings, config=self._config)
        self._run.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
