"""Trackio as a logger of Lightning: figures, tables and the configuration, in a local folder or a Space of the hub."""

import importlib.util
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rence_lightning.errors import UserError
from rence_lightning.text import install_extra

if TYPE_CHECKING:
    from trackio import Run


class TrackioLogger(Logger):
    """Writes figures and tables to Trackio, the local-first experiment tracker (extra `trackio`).

    Args:
        project: Name of the project.
        name: Name of the run; null lets Trackio make one up.
        group: Name of a group of runs within the project.
        space_id: Space on the Hugging Face hub, as `user/name`, that shows the project; null keeps it on this machine
            (`TRACKIO_DIR`).
        private: Whether a Space that is created is private.
        resume: What to do with an existing run of this name: `never` starts another, `allow` continues it if there is
            one, `must` requires it.

    Raises:
        UserError: Trackio is not installed, or a run is to be continued that has no name.
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
        if importlib.util.find_spec("trackio") is None:
            raise UserError(f"trainer.loggers: TrackioLogger needs trackio; {install_extra('trackio')}")
        if resume != "never" and name is None:
            raise UserError(f"trainer.loggers: TrackioLogger has resume: {resume}, but no name; name the run")
        self._settings: dict[str, Any] = {
            "project": project,
            "name": name,
            "group": group,
            "space_id": space_id,
            "private": private if space_id is not None else None,
            "resume": resume,
        }
        self._config: dict[str, Any] = {}
        self._run: Run | None = None

    @property
    def name(self) -> str:
        return str(self._settings["project"])

    @property
    def version(self) -> str | None:
        """The name of the run; None until the run is started, where Trackio makes one up."""
        name = self._run.name if self._run is not None else self._settings["name"]
        return None if name is None else str(name)

    @property
    @rank_zero_experiment
    def experiment(self) -> "Run":
        """Trackio's run, which is started when it is first used."""
        if self._run is None:
            import trackio

            self._run = trackio.init(**self._settings, config=self._config)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keeps settings for the configuration that Trackio is sent with the first figures."""
        self._config.update(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        """Sends a table; see `rence_lightning.run.loggers.TableLogger`."""
        import trackio

        self.experiment.log({key: trackio.Table(columns=columns, data=data)}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
