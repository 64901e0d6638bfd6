"""Fabric with the settings that this project supports; what cannot work is refused at the start, in one line."""

import os
from datetime import timedelta

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.amp.grad_scaler import GradScaler

from rence_lightning.distributed import TIMEOUT
from rence_lightning.errors import UserError
from rence_lightning.training.precision import Precision
from rence_lightning.training.strategy import FullyShardStrategy

PROCESSES_PER_CORE = 4
"""Largest number of processes per core of a CPU; with more, set-up does not finish in reasonable time."""

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
    processes, cores = fabric.world_size // num_nodes, os.cpu_count() or 1
    if fabric.device.type == "cpu" and processes > PROCESSES_PER_CORE * cores:
        raise UserError(
            f"trainer: devices is {processes} on a CPU with {cores} cores; set it to at most "
            f"{PROCESSES_PER_CORE * cores}"
        )
    return fabric
