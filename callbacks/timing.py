"""Where the time of a run goes: the seconds of each phase, in `metrics.csv`."""

import time
from typing import Any

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class Timing(Callback):
    """Logs the seconds of each phase, a row for each iteration and one for the time before the first.

    The figures are `time/rollouts` (sampling, grading, filtering), `time/old_policy` (log-probabilities of pi_old that
    are taken before the first update), `time/updates`, `time/evaluation`, and `time/other` (checkpoints, logs, and what
    else happens between the phases). They add up to the time of the run on rank zero, the loading of the policy left
    out. It must be the last callback that does work in an iteration, because a phase ends when this callback is called.

    Args:
        enabled: Whether to log the times.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._seconds: dict[str, float] = {}
        self._since = self._begun = time.perf_counter()

    def _start_row(self, *_: Any, **__: Any) -> None:
        self._seconds = {}
        self._since = self._begun = time.perf_counter()

    def _start_phase(self, *_: Any, **__: Any) -> None:
        self._since = time.perf_counter()

    def _end_phase(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _log(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        total = time.perf_counter() - self._begun
        figures = {**self._seconds, "other": total - sum(self._seconds.values())}
        self._start_row()
        if self.enabled:
            trainer.log_metrics({f"time/{name}": seconds for name, seconds in figures.items()}, trainer.iteration)

    setup = _start_row
    on_validation_start = on_train_epoch_start = on_train_batch_start = _start_phase
    on_train_start = on_train_epoch_end = on_train_end = _log

    def on_rollouts_end(self, *_: Any, **__: Any) -> None:
        self._end_phase("rollouts")

    def on_updates_start(self, *_: Any, **__: Any) -> None:
        self._end_phase("old_policy")

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._end_phase("updates")

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end_phase("evaluation")
        if not trainer.training:
            self._log(trainer)

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        if trainer.training and trainer.session.opened:
            self._log(trainer)
