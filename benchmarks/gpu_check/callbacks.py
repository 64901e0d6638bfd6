"""Callbacks of the runs that the check starts, given by `class_path`: seconds by phase, and a rank that is killed."""

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from rence_lightning.callbacks import Callback
from rence_lightning.distributed import rank_and_world
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


def now() -> float:
    """The time in seconds, after all work of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class PhaseTimes(Callback):
    """Measures the seconds of each phase of each iteration on rank 0.

    The phases are `sync` (the weights go to the engine), `rollouts` (the rest of sampling and grading), `pi_old` (its
    log-probabilities for later updates, with the log of the rollouts), `updates`, and `checkpoint` (with everything
    else that ends an iteration).

    Args:
        file: JSON file for the seconds: a list with a dictionary for each iteration.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.iterations: list[dict[str, float]] = []
        self.tokens = 0
        self._mark = 0.0
        self._syncs = 0.0

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        engine: Any = trainer.datamodule.engine
        sync = engine.sync

        def timed(policy: Any) -> None:
            start = now()
            sync(policy)
            self._syncs += now() - start

        engine.sync = timed

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end("checkpoint")
        self.iterations.append({})
        self._syncs = 0.0

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self._end("rollouts")
        self.iterations[-1]["sync"] = self._syncs
        self.iterations[-1]["rollouts"] -= self._syncs
        self.iterations[-1]["tokens"] = batch.totals.sums["length"]

    def on_train_batch_start(self, trainer: Trainer, module: PolicyModule, batch: Any, batch_idx: int) -> None:
        if "pi_old" not in self.iterations[-1]:
            self._end("pi_old")

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Mapping[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        self._end("updates")

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end("checkpoint")
        if rank_and_world()[0] == 0:
            self.file.write_text(json.dumps(self.iterations, indent=1))

    def _end(self, phase: str) -> None:
        """Adds the time since the end of the last phase to a phase of the iteration in progress."""
        before, self._mark = self._mark, now()
        if self.iterations:
            self.iterations[-1][phase] = self.iterations[-1].get(phase, 0.0) + self._mark - before


class KilledRank(Callback):
    """Kills one rank in the second iteration.

    Args:
        rank: Number of the rank.
        place: `sampling`, or `update`: between the forward and the backward pass, while other ranks go on.
        file: File for the time of the kill, in seconds since 1970, and the number of the process.
    """

    def __init__(self, rank: int, place: Literal["sampling", "update"], file: str) -> None:
        self.rank, self.place, self.file = rank, place, Path(file)
        self._tokens = 0

    def on_tokens(self, trainer: Trainer, module: PolicyModule, responses: int, tokens: int) -> None:
        if trainer.current_epoch == 1 and trainer.training and self.place == "sampling":
            self._kill()

    def on_train_batch_start(self, trainer: Trainer, module: PolicyModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and self.place == "update":
            module.policy.register_forward_hook(lambda *_: self._kill())

    def _kill(self) -> None:
        if rank_and_world()[0] != self.rank:
            return
        self.file.write_text(json.dumps({"time": time.time(), "process": os.getpid()}))
        with suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGKILL)
