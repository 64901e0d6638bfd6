"""The hooks a callback may have: Lightning's, and a few for what Lightning does not know of.

An *iteration* is Lightning's epoch, an *update* its training batch.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback as LightningCallback

from rence_lightning.sampling.datamodule import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class Callback(LightningCallback):
    """Base class of this project's callbacks. Lightning's own callbacks work beside them (see the documentation).

    The hooks, in the order of a run: `setup`, `on_fit_start`, `on_train_start`, then for each iteration
    `on_train_epoch_start`, `on_draw` and `on_tokens` while responses are sampled, `on_rollouts_end`, for each update
    `on_train_batch_start` and `on_train_batch_end`, and `on_train_epoch_end`; at last `on_train_end`, `on_fit_end` and
    `teardown`. An evaluation is `on_validation_start`, `on_evaluate`, `on_validation_end`.
    """

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        """The policy is loaded and placed; `stage` is `fit` or `validate`."""

    def teardown(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        """The run is over, in whatever way."""

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """A checkpoint, if there is one, is restored."""

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """An iteration begins; nothing has been sampled."""

    def on_draw(
        self, trainer: Trainer, module: PolicyModule, batch: IterationBatch, prompts: int, group_size: int
    ) -> None:
        """So many prompts are about to be sampled; `batch` is what the iteration has so far."""

    def on_tokens(self, trainer: Trainer, module: PolicyModule, responses: int, tokens: int) -> None:
        """So many more responses finished, and tokens sampled, on this rank."""

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        """The iteration's groups are ready; the policy still is pi_old."""

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        """An update was taken; `outputs` are its figures over all ranks. What is added to them is logged with them."""

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """An iteration is done; its figures are in `trainer.callback_metrics`."""

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """No more iterations follow."""

    def on_fit_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """Everything of the run is written."""

    def on_validation_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """An evaluation begins."""

    def on_evaluate(self, trainer: Trainer, module: PolicyModule) -> None:
        """Evaluate the policy as it is now."""

    def on_benchmark_start(self, trainer: Trainer, module: PolicyModule, name: str, responses: int) -> None:
        """A benchmark is about to be sampled: so many responses over all ranks."""

    def on_stale_samples(self, trainer: Trainer, module: PolicyModule, folder: Path) -> None:
        """The folder held samples of another evaluation, which were removed; on rank zero only."""

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """An evaluation is over."""

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        """The run is ended by an error or an interrupt."""
