"""The precision of the computation: the types of mixed precision, and float16 with a scaled loss."""

from typing import Any, Literal

import torch
from lightning.fabric.plugins import MixedPrecision
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from rence_lightning.errors import UserError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Rounding = Literal["nearest", "stochastic"]

COMPUTE_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Data type of the computation in each mixed precision, in which the parameters are float32."""

INITIAL_SCALE = 2.0**16
"""Factor of an update's loss at the start of a run, as in torch."""


def check_rounding(rounding: Rounding, precision: Precision) -> None:
    """Refuses stochastic rounding where no weight is rounded.

    Raises:
        UserError: The computation is in the type of the parameters.
    """
    if rounding == "stochastic" and precision not in COMPUTE_TYPES:
        raise UserError(
            f"trainer: rounding is stochastic, but precision {precision} does not round the weights; set precision to "
            "bf16-mixed or 16-mixed, or rounding to nearest"
        )


class LossScaling(MixedPrecision):
    """Autocast to float16 with a scaled loss, on any device: Fabric's own replaces float16 by bfloat16 on a CPU.

    Gradients below 6e-8 are zero in float16, so the loss is multiplied by a large factor and the float32 gradients are
    divided by it before they are clipped. Where a gradient overflows, the update has to be skipped, and the factor is
    halved; after 2000 updates without an overflow it is doubled.

    The trainer multiplies each process's share of a loss by the number of processes, because their gradients are
    averaged. The scaler's factor is divided by that number, or the next power of two, so that the float16 numbers do
    not depend on it.
    """

    scaler: GradScaler

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", GradScaler("cpu"))
        self.place("cpu", 1)

    def place(self, device: str, processes: int) -> None:
        """Prepares for a type of device, such as `cuda`, and a number of processes, which Fabric finds out."""
        self._processes = 2 ** (processes - 1).bit_length()
        self.device = device
        self.scaler = GradScaler(device, init_scale=INITIAL_SCALE / self._processes)

    @property
    def scale(self) -> float:
        """Factor of an update's loss, summed over processes."""
        return self.scaler.get_scale() * self._processes

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Divides the gradients by the scale; the processes agree on whether one of them is not finite.

        Fabric's own refuses fused optimizers, which can divide by the scale themselves; here they get the result.
        """
        self.scaler.unscale_(optimizer)

    def optimizer_step(self, optimizer: Any, **kwargs: Any) -> Any:
        """Takes the step; the trainer does not ask for one where a gradient is not finite."""
        return optimizer.step(**kwargs)

    def adjust(self) -> bool:
        """Halves the scale if a gradient of this update was not finite; returns whether it was.

        It is called after `unscale_gradients`, once for each update.
        """
        before = self.scaler.get_scale()
        self.scaler.update()
        return self.scaler.get_scale() < before

    def state_dict(self) -> dict[str, Any]:
        """The scale of a whole update, and the number of updates since it last changed."""
        return {"scale": self.scale, "updates": self.scaler.state_dict()["_growth_tracker"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        scale, updates = state_dict["scale"] / self._processes, state_dict["updates"]
        self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": updates})
