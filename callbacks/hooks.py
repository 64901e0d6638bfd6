"""The hooks of callbacks: those of Lightning, and further ones for rollouts, evaluations and exports.

An *iteration* is Lightning's epoch; an *update* is its training batch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.callbacks import Callback as LightningCallback

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Evaluation
from rence_lightning.parts import Configurable
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update

Figures = Mapping[str, float] | None
"""Figures to log that a hook returns: those of the iteration, `rollouts/NAME`, or of the update, `train/NAME`."""


class Callback(LightningCallback, Configurable):
    """Base class of this project's callbacks, which can be combined with Lightning's own (see the documentation).

    The hooks, in the order of a run: `setup`, `on_fit_start`, `on_train_start`, then for each iteration
    `on_train_epoch_start`, `on_draw` and `on_tokens` while responses are sampled, `on_rollouts_end`,
    `on_updates_start`, for each update `on_train_batch_start`, `on_passes_end` and `on_train_batch_end`, and
    `on_train_epoch_end`; finally `on_train_end`, `on_export`, `on_fit_end` and `teardown`. An evaluation is
    `on_validation_start`, `on_evaluate` (in which `on_evaluation_start`, `on_tokens` and `on_evaluation_end` follow)
    and `on_validation_end`.

    Hooks whose result is `Figures` may return figures to log: those of `on_train_batch_end` belong to the update, those
    of the others to the iteration. A callback passes information to other callbacks by calling a hook, such as
    `trainer.call("on_export", folder)`; no callback searches `trainer.callbacks` for another.
    """

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        """Called once the policy is loaded and on its device; `stage` is `fit` or `validate`."""

    def teardown(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        """Called when the run is over, whether it finished or failed."""

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called before the first iteration, after the checkpoint of a resumed run is loaded."""

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called at the start of an iteration, before anything is sampled."""

    def on_draw(
        self, trainer: Trainer, module: PolicyModule, batch: IterationBatch, prompts: int, group_size: int
    ) -> None:
        """Called before `group_size` responses to each of `prompts` prompts are sampled, over all ranks; `batch` has
        the groups that the iteration has sampled and kept so far."""

    def on_tokens(self, trainer: Trainer, module: PolicyModule, responses: int, tokens: int) -> None:
        """Called with the numbers of responses finished and tokens sampled on this rank since the last call."""

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> Figures:
        """Called when the groups of an iteration are complete; `batch.sampled` has all that were sampled."""

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> Figures:
        """Called before the first update, when the policy is pi_old. `batch.groups` are the groups that are trained on,
        without the responses that a filter leaves out; what was sampled beside them is freed."""

    def on_passes_end(self, trainer: Trainer, module: PolicyModule, update: Update) -> Figures:
        """Called when the gradient of an update is complete, before the optimizer's step; `update` has the groups that
        this rank trains on, with their log-probabilities under the policy."""

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Mapping[str, Any], batch: list[Group], batch_idx: int
    ) -> Figures:
        """Called after an update. `outputs` holds its figures over all ranks."""

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called at the end of an iteration; its figures are in `trainer.callback_metrics`."""

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called after the last iteration."""

    def on_already_finished(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called instead of all hooks after `setup` if a resumed run already has all of its iterations."""

    def on_fit_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called when all files of the run are written."""

    def on_export(self, trainer: Trainer, module: PolicyModule, folder: Path) -> None:
        """Called on every rank when the trained policy has been exported to `folder`, in Hugging Face format."""

    def on_validation_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called at the start of an evaluation."""

    def on_evaluate(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called to evaluate the current policy."""

    def on_evaluation_start(
        self, trainer: Trainer, module: PolicyModule, benchmarks: Sequence[str], responses: int
    ) -> None:
        """Called before all benchmarks are sampled, in one stream; `responses` are to be sampled, over all ranks."""

    def on_evaluation_end(self, trainer: Trainer, module: PolicyModule, evaluation: Evaluation) -> None:
        """Called on every rank when all benchmarks are evaluated and the results are logged and written."""

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """Called at the end of an evaluation."""

    def log(self, *args: Any, **settings: Any) -> NoReturn:
        """Raises `UserError`: a callback belongs to no run, so it logs through the module that every hook is given."""
        raise UserError(f"{type(self).__name__}.log: call module.log(name, value) in the hook instead of self.log")

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        """Called when an error or an interruption ends the run."""
