"""Checkpoints: the last few and the best, each a folder that is written atomically."""

from pathlib import Path
from typing import Any

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.errors import CheckpointError, EngineMismatchError, NonFiniteError, UserError
from rence_lightning.run.directory import point, prune
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class Checkpoint(Callback):
    """Saves checkpoints to `checkpoints/` in the run directory, and keeps the last ones and the best.

    A run that is interrupted or fails saves a checkpoint, unless the policy itself may be wrong (a gradient that is not
    finite, an engine that samples from other weights). `checkpoints/last` and `checkpoints/best` are links; the best
    checkpoint is the one with the highest average over the benchmarks.

    Args:
        every: Number of iterations from one checkpoint to the next; the last iteration is saved as well. 0 disables
            checkpoints.
        keep_last: Number of the latest checkpoints to keep, in addition to the best.
        background: Whether training goes on while a checkpoint is written. Its state is then copied to main memory
            first, 12 bytes for each trained parameter over all processes, and a disk that refuses to write ends the run
            at the next checkpoint.
    """

    def __init__(self, every: int = 5, keep_last: int = 1, background: bool = False) -> None:
        if every < 0 or keep_last < 1:
            raise UserError(f"checkpoint: every ({every}) must be >= 0 and keep_last ({keep_last}) >= 1")
        self.every = every
        self.keep_last = keep_last
        self.background = background
        self._best: float | None = None
        self._best_at: tuple[int, int] | None = None
        self._saved: tuple[int, int] | None = None
        self._evaluated = False

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """Saves the evaluation of a resumed run that had been interrupted between an iteration and its evaluation."""
        if trainer.session.resumed_in_place and not self._evaluated:
            self._saved = trainer.progress
        if trainer.session.resumed_from is not None and self._evaluated:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """Records whether this evaluation is the best so far; that of the policy before training does not count."""
        average = trainer.callback_metrics.get("evaluation/average")
        if not trainer.training or average is None:
            return
        self._saved, self._evaluated = None, True  # a checkpoint of this moment does not contain the evaluation yet
        if trainer.current_epoch and (self._best is None or float(average) > self._best):
            self._best, self._best_at = float(average), trainer.progress

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if self._best_at == trainer.progress or (self.every and trainer.current_epoch % self.every == 0):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._save(trainer)
        trainer.checkpoints.finish()

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        """Saves the training done since the last checkpoint."""
        in_doubt = isinstance(exception, NonFiniteError | EngineMismatchError | CheckpointError)
        if isinstance(exception, Exception):
            if trainer.checkpoints.can_save() and not in_doubt:
                self._save(trainer)
            trainer.checkpoints.finish()

    def _save(self, trainer: Trainer) -> None:
        """Saves the current state, unless it has been saved already."""
        if not self.every or self._saved == trainer.progress:
            return
        self._saved, self._evaluated = trainer.progress, False
        run, best = trainer.session.run, self._best_at == trainer.progress

        def publish(folder: Path) -> None:
            point(run, "last", folder)
            if best:
                point(run, "best", folder)
            prune(run, self.keep_last)

        trainer.checkpoints.save(publish, self.background)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "best_at": self._best_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._best_at = state_dict["best"], state_dict["best_at"]
