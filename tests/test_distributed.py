"""What ranks tell one another, over real processes."""

import os
import socket

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from rence_lightning.distributed import gather, max_over_ranks, on_every_rank, rank_and_world, sum_over_ranks
from rence_lightning.errors import EngineError


def fail_on(rank: int, failing: int) -> str:
    if rank == failing:
        raise EngineError("no memory")
    return f"work of {rank}"


def talk(rank: int, port: int, world: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    assert rank_and_world() == (rank, world)
    assert gather({"rank": rank}) == [{"rank": each} for each in range(world)]
    assert sum_over_ranks(rank, 0.5) == [sum(range(world)), 0.5 * world]
    assert max_over_ranks(-float(rank)) == 0
    assert on_every_rank(lambda: fail_on(rank, -1)) == [f"work of {each}" for each in range(world)]
    with pytest.raises(EngineError, match="rank 1: no memory"):
        on_every_rank(lambda: fail_on(rank, 1))
    dist.destroy_process_group()


def test_all_ranks_hear_what_one_says() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(talk, args=(port, 3), nprocs=3)


def test_a_single_process_talks_to_itself() -> None:
    assert rank_and_world() == (0, 1)
    assert gather("x") == ["x"] and sum_over_ranks(1.5, 2) == [1.5, 2] and max_over_ranks(3) == 3
    assert on_every_rank(lambda: 7) == [7]
    with pytest.raises(EngineError, match=r"^no memory$"):
        on_every_rank(lambda: fail_on(0, 0))
