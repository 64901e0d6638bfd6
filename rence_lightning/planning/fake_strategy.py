"""The strategy of a run on a fake process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.fabric.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from rence_lightning.planning.setup import TrainingSetup
from rence_lightning.policy import Policy
from rence_lightning.training.strategy import FullyShardStrategy

CPU = torch.device("cpu")


class PlannedStrategy(FullyShardStrategy):
    """The strategy of a run, in the first of several processes that exist in name only."""

    def __init__(self, given: FullyShardStrategy, setup: TrainingSetup) -> None:
        super().__init__(**given.arguments())
        self._setup = setup
        self._precision = precision_of(setup.precision)
        # Before the tensors are fake, because a mesh is made of values.
        self._world = init_device_mesh("cpu", (setup.world, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
        self._own_mesh = FullyShardStrategy._mesh(self, self._world["data_parallel"])

    @property
    def root_device(self) -> torch.device:
        return CPU

    @property
    def is_global_zero(self) -> bool:
        return True

    @property
    def world_size(self) -> int:
        return self._setup.world

    @property
    def num_processes(self) -> int:
        return self._setup.devices

    def shard(self, policy: Policy) -> None:
        """Shards a policy in place."""
        self._shard(policy, self._world)

    def _mesh(self, world: DeviceMesh) -> DeviceMesh:
        return self._own_mesh

    def _distribute(self, policy: nn.Module, weights: dict[str, Tensor]) -> None:
        """Does nothing: no process waits for weights, which have no values."""


@contextmanager
def strategy_of(setup: TrainingSetup) -> Iterator[PlannedStrategy | None]:
    """The strategy on a process group of fake processes; None where the policy is not sharded."""
    if not isinstance(setup.strategy, FullyShardStrategy):
        yield None
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend

    if dist.is_initialized():
        raise RuntimeError("planning needs a process without a process group; call it in a process of its own")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=setup.world)
    try:
        yield PlannedStrategy(setup.strategy, setup)
    finally:
        dist.destroy_process_group()


def precision_of(name: str) -> Precision:
    """The computation of a run in this precision, on fake CPUs."""
    return Precision() if name == "32-true" else MixedPrecision(cast(Any, name), device="cpu")
