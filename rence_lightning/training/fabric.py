"""Fabric with the settings that this project supports; what cannot work is refused at the start, in one line."""

import warnings
from collections.abc import Iterable
from datetime import timedelta
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from rence_lightning.distributed import TIMEOUT
from rence_lightning.errors import UserError
from rence_lightning.training.strategy import FullyShardStrategy

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

GROWTH_INTERVAL = 100
"""Number of updates without an overflow after which the scale of a float16 loss is doubled. torch's own, 2000, is more
than the paper's run has."""


def make_fabric(
    accelerator: str,
    devices: list[int] | str | int,
    num_nodes: int,
    strategy: Strategy | str,
    precision: Precision,
    timeout: timedelta = TIMEOUT,
) -> Fabric:
    """Creates Fabric; turns its errors about impossible settings into a message of one line."""
    plugin = None
    if precision == "16-mixed":
        # Given as a plugin because Fabric refuses this precision for a sharded policy, and on a CPU takes bfloat16.
        device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        plugin = MixedPrecision("16-mixed", device, GradScaler(device, growth_interval=GROWTH_INTERVAL))
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # sums of float16 products in float32
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=None if plugin else precision,
            plugins=plugin,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        given = f"accelerator {accelerator}, devices {devices}, strategy {strategy}, precision {precision}"
        raise UserError(f"trainer: {given}: {error}") from error
    if not isinstance(fabric.strategy, SingleDeviceStrategy | DDPStrategy | FullyShardStrategy):
        raise UserError(
            f"trainer: strategy {type(fabric.strategy).__name__} is not supported, because its weights can neither be "
            "given to an engine nor saved; use auto, ddp or rence_lightning.training.FullyShardStrategy"
        )
    if not isinstance(fabric.strategy, SingleDeviceStrategy):
        fabric.strategy._timeout = timeout
    return fabric


def check_trained(precision: str, parameters: Iterable[Tensor]) -> None:
    """Refuses float16 parameters where the loss is scaled: gradients in float16 would overflow when they are summed.

    It warns of other parameters in 16 bits, which the optimizer's small steps do not change.

    Raises:
        UserError: A parameter that is trained is in float16.
    """
    types = {each.dtype for each in parameters if each.requires_grad}
    if precision == "16-mixed" and torch.float16 in types:
        raise UserError(
            "trainer: precision is 16-mixed, but the parameters that are trained are in float16 too; set model.dtype "
            "to float32"
        )
    if types & {torch.bfloat16, torch.float16}:
        warnings.warn(
            "the parameters that are trained have 16 bits, and steps of the optimizer below half the spacing of such "
            "numbers are lost; set model.dtype to float32, and trainer.precision to bf16-mixed or 16-mixed",
            stacklevel=2,
        )
