"""How much of what an iteration does to the weights is seen by the policy that computes."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.distributed import sum_over_ranks
from rence_lightning.errors import UserError
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.precision import COMPUTE_TYPES
from rence_lightning.training.strategy import local_part
from rence_lightning.training.trainer import Trainer


class WeightMovement(Callback):
    """Compares the weights after an iteration's last update with those of pi_old, at the precision that computes.

    The optimizer changes float32 weights, and in mixed precision the policy computes with weights that are rounded to
    16 bits. Steps that are small beside the spacing of such numbers change the former and not the latter: within the
    iteration, scores, KL and clipping then look at a policy that stands still. Two figures of a sample of the trained
    weights are logged:

    - `iteration/weights_changed`: share of weights whose rounded value is no longer that of pi_old.
    - `iteration/movement_seen`: share of the movement that the rounded weights show, as a projection,
      <r(new) - r(old), new - old> / <new - old, new - old>, where r rounds. It is 1 in float32, about 1 with stochastic
      rounding, and 0.01 to 0.1 for a released bfloat16 checkpoint in its first iterations at a learning rate of 1e-6.

    With adapters they are those of the adapters' own weights, which are what is trained and rounded; what is lost where
    the sum of base and adapter is rounded is not in them. With parameters in 16 bits there are no figures.
    An iteration that a checkpoint divides has no such figures when it is resumed, because the checkpoint does not hold
    the weights of pi_old.

    Args:
        sample: Approximate number of weights to compare; 0 disables the comparison.
        warn_below: Value of `movement_seen` below which the run prints a warning, once.
    """

    def __init__(self, sample: int = 2**20, warn_below: float = 0.5) -> None:
        if sample < 0 or not 0 <= warn_below <= 1:
            raise UserError(
                f"weight_movement: sample ({sample}) must be >= 0 and warn_below ({warn_below}) from 0 to 1"
            )
        self.sample = sample
        self.warn_below = warn_below
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._old: _Values | None = None
        self._warned = False

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        """Reads the weights of pi_old."""
        if self.sample and all(each.dtype == torch.float32 for each in _trained(trainer)):
            self._weights = sampled(_trained(trainer), self.sample)
            self._old = self._read(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Mapping[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        """Logs the figures after the iteration's last update."""
        assert trainer.batch is not None
        if self._old is None or batch_idx + 1 < len(trainer.batch.updates):
            return
        new, old, self._old = self._read(trainer), self._old, None
        step, seen = new.masters - old.masters, new.rounded - old.rounded
        changed, count, along, square = sum_over_ranks(
            float((seen != 0).sum()), float(len(seen)), float(seen @ step), float(step @ step)
        )
        figures = {"iteration/weights_changed": changed / count}
        if square > 0:
            figures["iteration/movement_seen"] = along / square
            self._warn(trainer, along / square, module.policy.adapters is not None)
        trainer.log_metrics(figures, trainer.iteration)

    def _read(self, trainer: Trainer) -> "_Values":
        dtype = COMPUTE_TYPES.get(trainer.precision)
        rounded = torch.cat([values[index].to(dtype).double() for values, index in self._weights])
        with trainer.masters():
            masters = torch.cat([values[index].double() for values, index in self._weights])
        return _Values(masters, rounded)

    def _warn(self, trainer: Trainer, seen: float, adapters: bool) -> None:
        if seen >= self.warn_below or self._warned:
            return
        self._warned = True
        if trainer.is_global_zero:
            remedy = _remedy(trainer.precision, adapters)
            warnings.warn(
                f"iteration {trainer.iteration}: the weights that compute show {max(seen, 0.0):.1%} of the updates' "
                f"movement, because {trainer.precision} rounds the rest away; within an iteration, scores, KL and "
                f"clipping hardly see what the updates do. {remedy}; see docs/precision.md",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._warned = state_dict["warned"]


def _remedy(precision: str, adapters: bool) -> str:
    if adapters:
        return f"Set trainer.precision to {'16-mixed' if precision == 'bf16-mixed' else '32-true'}"
    finer = "trainer.precision to 16-mixed, " if precision == "bf16-mixed" else ""
    return f"Set {finer}trainer.rounding to stochastic, or train adapters (model.lora)"


@dataclass(frozen=True)
class _Values:
    """This rank's part of the sample, in float64: the weights that the optimizer changes, and those that compute."""

    masters: Tensor
    rounded: Tensor


def _trained(trainer: Trainer) -> list[Tensor]:
    """The parameters of the optimizer: where the policy is sharded, those of the module may be whole for a while."""
    return [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]


def sampled(parameters: list[Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    """Draws a sample of weights that is the same in each call and however the parameters are sharded.

    Args:
        parameters: Parameters to draw from.
        size: Number of weights to draw, over all parameters and processes; all are taken where there are fewer.

    Returns:
        For each parameter, this process's part of it, flat, and the indices of the sampled weights in that part.
    """
    total, sample = sum(parameter.numel() for parameter in parameters), []
    for number, parameter in enumerate(parameters):
        local, start = local_part(parameter)
        count = parameter.numel()
        if total <= size:
            indices = torch.arange(count)
        else:
            seed = int.from_bytes(hashlib.blake2b(f"weights {number}".encode(), digest_size=7).digest())
            wanted = max(1, round(size * count / total))
            indices = torch.randint(count, (wanted,), generator=torch.Generator().manual_seed(seed))
        own = indices[(indices >= start) & (indices < start + len(local))] - start
        sample.append((local, own.to(local.device)))
    return sample
