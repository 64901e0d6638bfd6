"""A logger for Trackio, which brings none for Lightning; in the folder of the run, or one on `PYTHONPATH`:

trainer:
  loggers:
    - class_path: trackio_logger.TrackioLogger
      init_args: {project: sums, name: first, resume: allow}
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Literal

import trackio
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class TrackioLogger(Logger):
    """Writes figures and the configuration to Trackio, the local-first experiment tracker (`pip install trackio`).

    Args:
        project: Name of the project.
        name: Name of the run; null lets Trackio make one up.
        group: Name of a group of runs within the project.
        space_id: Space on the Hugging Face hub, as `user/name`, that shows the project; null keeps it on this machine.
        private: Whether a Space that is created is private.
        resume: Treatment of an existing run of this name: `never` starts another, `allow` continues it if there is one,
            `must` requires it.
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
        self._settings: dict[str, Any] = {"project": project, "name": name, "group": group, "resume": resume}
        if space_id is not None:
            self._settings |= {"space_id": space_id, "private": private}
        self._config: dict[str, Any] = {}
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
            self._run = trackio.init(**self._settings, config=self._config)
        self._run.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
