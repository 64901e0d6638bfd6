"""Draws of real processes, which see one another's kept groups on the board."""

import os
import socket

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from fake_sampling import FakeEngine, brute_force, iterations, make_data, names, unrelated

from rence_lightning import distributed
from rence_lightning.distributed import board, connect, disconnect, gather
from rence_lightning.sampling import horizon


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def draw(rank: int, port: int, world: int) -> None:
    """Iterations with engines of different orders, with the board and without it."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    connect()
    look_at_the_board(rank, world)
    horizon.POLL_SECONDS = 0.0
    expected = brute_force(unrelated, 5, 3, 100)
    begun = {}
    for kind in ("board", "none"):
        if kind == "none":
            distributed._board = None
        engine = FakeEngine(room=3, honours=rank != 1, order=rank or None, pause=0.02)
        data = make_data(engine, prompts=100, prompts_per_draw=40)
        batches = iterations(data, 3)
        assert [names(batch.groups) for batch in batches] == [right.kept for right in expected], kind
        assert [names(batch.sampled) for batch in batches] == [right.counted for right in expected], kind
        assert len({str(state) for state in gather(data.state_dict())}) == 1
        begun[kind] = sum(gather(len(engine.seen)))
    assert begun["board"] < begun["none"], "the ranks did not see one another"
    disconnect()
    assert board() is None
    dist.destroy_process_group()


def look_at_the_board(rank: int, world: int) -> None:
    shared = board()
    assert shared is not None
    assert shared.read("topic") == []
    gather(None)
    shared.note("topic", [10 * rank, 10 * rank + 1])
    gather(None)
    assert sorted(shared.read("topic")) == sorted(10 * each + one for each in range(world) for one in (0, 1))
    gather(None)
    if rank == 0:
        shared.remove("topic")
    gather(None)
    assert shared.read("topic") == []


@pytest.mark.parametrize("world", [2, 3])
def test_processes_keep_what_one_process_keeps(world: int) -> None:
    multiprocessing.spawn(draw, args=(free_port(), world), nprocs=world)
