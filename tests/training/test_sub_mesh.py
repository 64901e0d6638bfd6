"""The groups of hybrid sharding wait as long as the strategy says."""

from datetime import timedelta

import pytest
import torch
from two_processes import in_two_processes

from rence_lightning.policy import load_policy
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.strategy import FullyShardStrategy


def read_timeouts(rank: int) -> None:
    """Runs in each of two processes, each of which has a whole copy of the policy."""
    fabric = make_fabric("cpu", 2, 1, FullyShardStrategy(shard_size=1), "32-true", timedelta(minutes=77))
    fabric.launch()
    policy = load_policy("embedded:arithmetic", empty=rank > 0)
    fabric.setup_module(policy)
    mesh = next(policy.parameters()).device_mesh  # type: ignore[attr-defined]
    assert mesh.mesh_dim_names == ("replicate", "shard") and mesh.shape == (2, 1)
    timeouts = [group._get_backend(torch.device("cpu")).options._timeout for group in mesh.get_all_groups()]
    assert timeouts == [timedelta(minutes=77)] * 2


@pytest.mark.slow
def test_timeouts_reach_the_groups_of_hybrid_sharding() -> None:
    in_two_processes(read_timeouts)
