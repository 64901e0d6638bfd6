"""Sharding the policy over processes: FSDP2 through Fabric, the same class on GPUs and, with gloo, on CPUs."""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from lightning.fabric.strategies import ModelParallelStrategy
from lightning.fabric.strategies.strategy import _BackwardSyncControl
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Module

from rence_lightning.errors import UserError
from rence_lightning.parts import Configurable

COMPUTE_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Data type of the computation in each mixed precision, in which the parameters are float32."""


class FullyShardStrategy(ModelParallelStrategy, Configurable):
    """Shards every parameter, gradient and optimizer state over the processes (FSDP2).

    Rank 0 alone loads the weights, into main memory, and distributes them from there.

    With `precision: bf16-mixed` (or `16-mixed`) the shards stay in float32, layers and the states between them are in
    bfloat16 (float16), and gradients are reduced in float32. Activation checkpointing is a setting of the model:
    `model.gradient_checkpointing`.

    Args:
        layers: Class names of the layers that are gathered one at a time (default: the model's `_no_split_modules`,
            which are its decoder layers).
        reshard_after_forward: Whether to free a layer's gathered parameters after its forward pass and gather them
            again for its backward pass, which takes less memory and more communication.
        shard_size: Number of processes that share one copy of the policy (default: all). `node` takes the processes of
            a node, so that parameters are gathered within nodes and only gradients cross the network (hybrid sharding).
        cpu_offload: Whether to keep shards, gradients and optimizer states in main memory and take the optimizer's step
            there, which needs the least GPU memory and is slow.
        reduce_each_pass: Whether to average gradients over processes after each of an update's backward passes. False
            averages them after the last pass only: less communication, but each process then holds the whole gradient,
            4 bytes per parameter.
    """

    def __init__(
        self,
        layers: list[str] | None = None,
        reshard_after_forward: bool = True,
        shard_size: int | Literal["node"] | None = None,
        cpu_offload: bool = False,
        reduce_each_pass: bool = True,
    ) -> None:
        if isinstance(shard_size, int) and shard_size < 1:
            raise UserError(f"strategy: shard_size is {shard_size}; it must be >= 1")
        super().__init__(self._shard, tensor_parallel_size=1)
        self._layers, self._reshard_after_forward = layers, reshard_after_forward
        self._shard_size, self._cpu_offload = shard_size, cpu_offload
        if reduce_each_pass:
            self._backward_sync_control = _ReduceEachPass()

    def setup_environment(self) -> None:
        # By default, the base class replicates over the devices of a node and never averages their gradients.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _get_process_group_backend(self) -> str:
        # With CPU offload the norm of the gradient is summed over ranks in main memory.
        if self._cpu_offload and self.root_device.type == "cuda":
            return "cpu:gloo,cuda:nccl"
        return super()._get_process_group_backend()

    def _shard(self, policy: Module, mesh: DeviceMesh) -> Module:
        options: dict[str, Any] = {"mesh": self._mesh(mesh["data_parallel"])}
        if (dtype := COMPUTE_TYPES.get(str(self.precision.precision))) is not None:
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        if self._cpu_offload:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=self.root_device.type == "cuda")
        names = set(self._layers or getattr(policy.model, "_no_split_modules", None) or ())
        layers = [module for module in policy.modules() if type(module).__name__ in names]
        if not layers:
            raise UserError(
                f"strategy: the policy has no layers named {', '.join(sorted(names)) or '(none given)'}; "
                "name its decoder layer class in strategy.layers"
            )
        weights = policy.state_dict() if self.is_global_zero else {}
        # Each call moves one layer to the device and keeps a shard of it: the policy is never whole on a device.
        for layer in layers:
            fully_shard(layer, reshard_after_forward=self._reshard_after_forward, **options)
        # The root holds embedding and output projection, which the backward pass needs at once: they stay gathered.
        fully_shard(policy, reshard_after_forward=False, **options)
        if self.world_size > 1:
            self._distribute(policy, weights)
        return policy

    @torch.no_grad()
    def _distribute(self, policy: Module, weights: dict[str, Tensor]) -> None:
        """Gives every process its shards of rank 0's weights, and copies of rank 0's buffers."""
        if not self.is_global_zero:  # the parameters have shapes but no storage so far
            policy.to_empty(device="cpu" if self._cpu_offload else self.root_device)
            policy.model.tie_weights()  # type: ignore[operator, union-attr]
            for module in policy.modules():
                for name, buffer in module.named_buffers(recurse=False):
                    setattr(module, name, buffer.to(self.root_device))
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(policy, cast(dict[str, Any], weights), options=options)
        for buffer in policy.buffers():
            dist.broadcast(buffer, src=0)

    def _mesh(self, world: DeviceMesh) -> DeviceMesh:
        """The device mesh: one row of processes shares one copy of the policy; of several rows, each has a copy."""
        size = self.num_processes if self._shard_size == "node" else self._shard_size or world.size()
        if world.size() % size:
            raise UserError(
                f"strategy: shard_size {size} does not divide the {world.size()} processes of the run; choose a divisor"
            )
        if size == world.size():
            return world
        shape = (world.size() // size, size)
        mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicate", "shard"))
        for group in mesh.get_all_groups():
            _set_pg_timeout(cast(timedelta, self._timeout), group)  # new groups have the default of 10 minutes
        return mesh


class _ReduceEachPass(_BackwardSyncControl):
    def no_backward_sync(self, module: Module, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext()


def is_sharded(module: Module) -> bool:
    """Whether a module's parameters are sharded over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def full_state_dict(module: Module) -> dict[str, Tensor]:
    """All weights, assembled in main memory on rank 0 (empty on the others); every rank must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(module, options=options))
