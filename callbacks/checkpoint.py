"""Checkpoints: the last few and the best, each a folder that appears whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

from rence_lightning.callbacks.base import Callback
from rence_lightning.errors import EngineError, StarvationError, UserError
from rence_lightning.run.directory import CHECKPOINTS
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.stop import Stopped
from rence_lightning.training.trainer import Trainer


class Checkpoint(Callback):
    """Saves after iterations, into `checkpoints/` of the run directory.

    `checkpoints/last` and `checkpoints/best` are links; best is by the average over benchmarks.

    Args:
        every: Save after every so many iterations, and after the last; 0 never saves.
        keep_last: Keep so many of the latest checkpoints, and the best.
    """

    def __init__(self, every: int = 5, keep_last: int = 1) -> None:
        if every < 0 or keep_last < 1:
            raise UserError(f"checkpoint: every ({every}) must be >= 0 and keep_last ({keep_last}) >= 1")
        self.every = every
        self.keep_last = keep_last
        self._best: float | None = None
        self._saved = -1

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """A run resumed from an earlier checkpoint starts another future: the later ones are of the old."""
        checkpoints = trainer.run_dir / CHECKPOINTS
        if trainer.resumed_from is None or not trainer.is_global_zero:
            return
        for folder in _folders(checkpoints):
            if folder.name > trainer.resumed_from.name:
                shutil.rmtree(folder)
        _link(checkpoints / "last", trainer.resumed_from.name)
        if not (checkpoints / "best").exists():
            (checkpoints / "best").unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        """Nothing is lost that a run learned since its last checkpoint: starved, told to stop, or without an engine."""
        whole = isinstance(exception, StarvationError | Stopped | EngineError)
        if whole and self.every and self._saved != trainer.current_epoch:
            self._save(trainer, best=False)

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        best = self._is_best(trainer)
        if self.every and (best or trainer.current_epoch % self.every == 0):
            self._save(trainer, best)

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        best = self._is_best(trainer)
        if self.every and (best or self._saved != trainer.current_epoch):
            self._save(trainer, best)

    def _is_best(self, trainer: Trainer) -> bool:
        """Whether this iteration was evaluated, and better than any before."""
        average = trainer.callback_metrics.get("evaluation/average")
        evaluated = trainer.callback_metrics.get("evaluation/iteration")
        if average is None or evaluated is None or int(evaluated) != trainer.current_epoch:
            return False
        if self._best is not None and float(average) <= self._best:
            return False
        self._best = float(average)
        return True

    def _save(self, trainer: Trainer, best: bool) -> None:
        folder = trainer.run_dir / CHECKPOINTS / f"iteration-{trainer.current_epoch:04d}"
        self._saved = trainer.current_epoch
        trainer.save_checkpoint(folder)
        if trainer.is_global_zero:
            _link(folder.parent / "last", folder.name)
            if best:
                _link(folder.parent / "best", folder.name)
            self._prune(folder.parent)

    def _prune(self, checkpoints: Path) -> None:
        kept = {(checkpoints / link).resolve() for link in ("last", "best") if (checkpoints / link).exists()}
        for path in _folders(checkpoints)[: -self.keep_last]:
            if path.resolve() not in kept:
                shutil.rmtree(path)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "saved": self._saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._saved = state_dict["best"], state_dict["saved"]


def _folders(checkpoints: Path) -> list[Path]:
    """Checkpoints, the oldest first."""
    return sorted(path for path in checkpoints.glob("iteration-*") if path.is_dir())


def _link(link: Path, target: str) -> None:
    """Points a link at another folder beside it; at no moment is there no link."""
    draft = link.with_name(f".tmp-{link.name}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target, target_is_directory=True)
    draft.replace(link)
