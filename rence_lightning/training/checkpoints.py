"""Checkpoints of a run in the loop: what the next step depends on, collected from the loop's parts and given back."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rence_lightning.distributed import gather
from rence_lightning.errors import UserError, call_plugin, invalid_return
from rence_lightning.run.checkpoint import load_checkpoint, load_policy_weights, rng_state, save_checkpoint
from rence_lightning.run.directory import SavedAt
from rence_lightning.sampling.pending import pending_state, restored


class Checkpoints:
    """Saves and restores the state of a trainer.

    Args:
        trainer: Trainer whose state it is.

    Attributes:
        rng: Random state to save, where an iteration was undone; None for the present one.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.rng: dict[str, Any] | None = None
        self._finish: Callable[[], None] | None = None

    @property
    def saved_at(self) -> SavedAt:
        """The progress of the run, as a checkpoint records it."""
        trainer, session = self._trainer, self._trainer.session
        iteration, update = trainer.progress
        return SavedAt(session.run.id, iteration, update, trainer.global_step, session.started.isoformat())

    def can_save(self) -> bool:
        """Whether all ranks have made equal progress, none within an optimizer's step; every rank must call it."""
        trainer = self._trainer
        possible = trainer.training and trainer.session.opened and not trainer.step.under_way
        moments = gather((trainer.progress, trainer.global_step) if possible else None)
        return None not in moments and len(set(moments)) == 1

    def save(self, publish: Callable[[Path], None], background: bool = False) -> None:
        """Saves everything that the next step depends on; every rank must call it.

        Args:
            publish: Function that rank 0 calls with the checkpoint's folder once it is complete.
            background: Whether training goes on while the checkpoint is written.
        """
        self.finish()
        trainer, saved = self._trainer, self.saved_at
        folder, policy = trainer.session.run.folder_of(saved), trainer.lightning_module.policy
        state, rng, config = self._state(), self.rng or rng_state(), trainer.session.config_yaml
        self._finish = save_checkpoint(
            trainer.fabric, folder, policy, trainer.optimizers[0], state, rng, saved, config, publish, background
        )
        if not background:
            self.finish()

    def finish(self) -> None:
        """Waits until the last checkpoint is written; every rank must call it.

        Raises:
            CheckpointError: It could not be written.
        """
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()

    def load_policy(self, folder: Path) -> None:
        """Loads the policy of a checkpoint alone."""
        trainer = self._trainer
        run = load_policy_weights(trainer.fabric, folder, trainer.lightning_module.policy)
        trainer.current_epoch = run["iteration"]

    def load(self, folder: Path) -> None:
        """Restores everything; settings of the optimizer and the trust region that were changed since keep their new
        values."""
        trainer = self._trainer
        optimizer, module = trainer.optimizers[0], trainer.lightning_module
        configured = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
        kl_coef = module.trust_region.kl_coef
        run = load_checkpoint(trainer.fabric, folder, module.policy, optimizer)
        trainer.global_step = run["global_step"]
        trainer.current_epoch = run["iteration"]
        trainer.step.load_state_dict(run)
        module.on_load_checkpoint(run)
        changed = {change.key for change in trainer.session.changed_settings}
        if changed & {"model.trust_region.kl_coef", "model.trust_region.delta"}:
            module.trust_region.kl_coef = kl_coef
        trainer.datamodule.load_state_dict(run["data"])
        if run["pending"] is not None:
            if "trainer.precision" in changed:
                raise UserError(
                    "trainer: precision has changed, but the checkpoint is in the middle of an iteration, whose "
                    "log-probabilities of pi_old were computed in the old one; set it back, or resume a checkpoint at "
                    "the end of an iteration"
                )
            trainer.batch = restored(run["pending"], trainer.datamodule.prompts)
        if trainer.scheduler is not None and run["lr_scheduler"] is not None:
            trainer.scheduler.load_state_dict(run["lr_scheduler"])
        for callback in trainer.callbacks:
            if callback.state_key in run["callbacks"]:
                callback.load_state_dict(run["callbacks"][callback.state_key])
        _apply(configured, optimizer, trainer.scheduler)

    def _state(self) -> dict[str, Any]:
        trainer = self._trainer
        run: dict[str, Any] = {
            "global_step": trainer.global_step,
            "iteration": trainer.current_epoch,
            **trainer.step.state_dict(),
            "data": trainer.datamodule.state_dict(),
            "pending": pending_state(trainer.batch) if trainer.batch is not None and trainer.progress[1] else None,
            "lr_scheduler": trainer.scheduler.state_dict() if trainer.scheduler is not None else None,
            "callbacks": {each.state_key: state for each in trainer.callbacks if (state := _state_of(each))},
        }
        trainer.lightning_module.on_save_checkpoint(run)
        return run


def _apply(configured: list[dict[str, Any]], optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
    """Gives a restored optimizer the configured hyperparameters; a schedule continues from the new learning rate."""
    for index, (group, settings) in enumerate(zip(optimizer.param_groups, configured, strict=True)):
        if scheduler is not None:
            before, now = group.get("initial_lr", group["lr"]), settings["initial_lr"]
            lr = group["lr"] if before == now else group["lr"] * now / before if before else now
            settings = {**settings, "lr": lr}
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs[index] = now
        group.update(settings)


def _state_of(callback: Callback) -> dict[str, Any]:
    """A callback's state; one that could not be read back is refused before it is written.

    Raises:
        PartError: The state raises, or holds something else than plain values.
    """
    state: dict[str, Any] = call_plugin(callback, "state_dict()", callback.state_dict)
    written = io.BytesIO()
    try:
        torch.save(state, written)
        written.seek(0)
        torch.load(written, weights_only=True)  # which runs no code
    except Exception as error:
        expected = "numbers, texts, tensors, and lists or dictionaries of them"
        raise invalid_return(callback, "state_dict()", state, expected) from error
    return state
