"""The end of an update: its gradient is unscaled and clipped, and the optimizer's step taken if all is finite."""

import math
from typing import Any, Literal

from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricOptimizer
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LRScheduler

from rence_lightning.distributed import collectives
from rence_lightning.errors import NonFiniteError, call_plugin

SKIPS_IN_A_ROW = 10
"""Number of updates skipped in a row at which the run stops, because the policy itself must be broken."""


class OptimizerStep:
    """Takes the optimizer's steps, and counts those that are skipped.

    In `16-mixed` the loss is scaled: a gradient that is not finite though the loss is, has overflowed. Its step is
    skipped, and the next updates have half the scale. Any other loss or gradient that is not finite is a fault.

    Args:
        fabric: Fabric that has set up policy and optimizer.
        gradient_clip_val: Largest norm of a gradient; None disables clipping.
        on_nonfinite: Action at a fault.

    Attributes:
        skipped: Number of updates skipped for a fault.
        overflowed: Number of updates skipped because the scaled gradient overflowed.
        under_way: Whether a step has begun that the trainer has not counted yet.
    """

    def __init__(self, fabric: Fabric, gradient_clip_val: float | None, on_nonfinite: Literal["stop", "skip"]) -> None:
        self._fabric = fabric
        self._limit = gradient_clip_val if gradient_clip_val is not None else math.inf
        self._on_nonfinite = on_nonfinite
        self.skipped = self.overflowed = self._in_a_row = 0
        self.under_way = False

    def take(
        self, optimizer: _FabricOptimizer, scheduler: LRScheduler | None, loss: float, update: str
    ) -> dict[str, float]:
        """Takes a step and frees the gradient; returns the gradient's norm before clipping, and the loss scale.

        Args:
            optimizer: Optimizer of the policy, which has the whole gradient of the update.
            scheduler: Learning rate scheduler, which is not stepped if the update is skipped.
            loss: Loss of the update, over all processes.
            update: Name of the update in an error.

        Raises:
            NonFiniteError: There was a fault and the run is to stop, or too many updates in a row were skipped.
        """
        scaler = self._scaler
        figures = {"loss_scale": scaler.get_scale()} if scaler is not None else {}
        with collectives():
            if scaler is not None:
                # Not by Fabric's `clip_gradients`, which refuses fused optimizers. Where the policy is sharded, all
                # processes learn whether one of them found an overflow.
                scaler.unscale_(optimizer.optimizer)
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            norm = clip_grad_norm_(parameters, self._limit)
            total = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if math.isfinite(total) and math.isfinite(loss):
            self.under_way = True
            call_plugin(optimizer.optimizer, "step()", optimizer.step)
            self._in_a_row = 0
            if scheduler is not None:
                scheduler.step()
        else:
            if scaler is not None:
                scaler.update()
            overflow = scaler is not None and scaler.get_scale() < figures["loss_scale"]
            self._skip(loss, total, overflow and math.isfinite(loss), update)
        optimizer.zero_grad(set_to_none=True)
        return {"grad_norm": total, **figures}

    @property
    def _scaler(self) -> GradScaler | None:
        """The scaler of the loss in `16-mixed`."""
        return getattr(self._fabric.strategy.precision, "scaler", None)

    def _skip(self, loss: float, norm: float, overflow: bool, update: str) -> None:
        self._in_a_row += 1
        self.overflowed += overflow
        self.skipped += not overflow
        if self._in_a_row == SKIPS_IN_A_ROW:
            what = f", and {SKIPS_IN_A_ROW} updates in a row were skipped: the policy may be broken (resume an earlier "
            what += "checkpoint with a lower learning rate"
        elif not overflow and self._on_nonfinite == "stop":
            what = " (lower the learning rate, or set trainer.on_nonfinite to skip if this is rare"
        else:
            return
        other = ""
        if self._scaler is not None:
            other = f"; at a loss scale of {self._scaler.get_scale():g}, set trainer.precision to bf16-mixed or 32-true"
        raise NonFiniteError(f"{update}: the loss is {loss}, the gradient's norm {norm}{what}{other})")

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the loss scale if there is one."""
        return {
            "updates_skipped": self.skipped,
            "updates_overflowed": self.overflowed,
            "skipped_in_a_row": self._in_a_row,
            "precision": self._fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state; one that was saved without loss scaling leaves the initial scale."""
        self.skipped = state["updates_skipped"]
        self.overflowed = state["updates_overflowed"]
        self._in_a_row = state["skipped_in_a_row"]
        if state["precision"]:
            self._fabric.strategy.precision.load_state_dict(state["precision"])
