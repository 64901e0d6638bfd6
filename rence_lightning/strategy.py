"""Sharding the policy over processes: FSDP2 through Fabric, the same class on GPUs and, with gloo, on CPUs."""

from typing import Any, cast

import torch
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Module

from rence_lightning.errors import UserError


class FullyShardStrategy(ModelParallelStrategy):
    """Each process holds its share of every parameter, gradient and optimizer state (FSDP2).

    With `precision: bf16-mixed` the shards stay in float32, layers compute in bfloat16 and gradients are reduced in
    float32.

    Args:
        layers: Class names of the layers that are gathered one at a time (default: the model's own
            `_no_split_modules`, its decoder layers).
        reshard_after_forward: Free a layer's gathered parameters after its forward pass, and gather them again for its
            backward pass: less memory, more communication.
        sharded_checkpoint: Every process saves its shard; False assembles one file on rank 0.
    """

    def __init__(
        self,
        layers: list[str] | None = None,
        reshard_after_forward: bool = True,
        sharded_checkpoint: bool = True,
    ) -> None:
        super().__init__(self._shard, tensor_parallel_size=1, save_distributed_checkpoint=sharded_checkpoint)
        self._layers = layers
        self._reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        # Left to itself, the base class replicates over the devices of a node and never averages their gradients.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _shard(self, policy: Module, mesh: DeviceMesh) -> Module:
        options: dict[str, Any] = {"mesh": mesh["data_parallel"]}
        if self.precision.precision == "bf16-mixed":
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        policy.to(self.root_device)
        names = set(self._layers or getattr(policy.model, "_no_split_modules", None) or ())
        layers = [module for module in policy.modules() if type(module).__name__ in names]
        if not layers:
            raise UserError(
                f"strategy: the policy has no layers named {', '.join(sorted(names)) or '(none given)'}; "
                "name its decoder layer class in strategy.layers"
            )
        for layer in layers:
            fully_shard(layer, reshard_after_forward=self._reshard_after_forward, **options)
        # The root holds embedding and output projection, which the backward pass needs at once: they stay gathered.
        fully_shard(policy, reshard_after_forward=False, **options)
        return policy


def is_sharded(module: Module) -> bool:
    """Whether a module's parameters are spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def full_state_dict(module: Module) -> dict[str, Tensor]:
    """All weights, assembled in main memory on rank 0 (empty elsewhere); every rank takes part."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(module, options=options))
