"""Draws of real processes, which see one another's kept groups on the board."""

import os
import socket
import warnings

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from fake_sampling import FakeEngine, brute_force, iterations, make_data, names, unrelated

from rence_lightning import distributed
from rence_lightning.distributed import Board, board, connect, disconnect, gather
from rence_lightning.sampling import cutoff


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def draw(rank: int, port: int, world: int) -> None:
    """Iterations with engines of different orders, with the board, without it, and after it has failed."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    connect()
    look_at_the_board(rank, world)
    cutoff.POLL_SECONDS = 0.0
    expected = brute_force(unrelated, 5, 3, 100)
    begun = {}
    for kind in ("board", "none", "lost"):
        if kind == "none":
            distributed._board, kept = None, distributed._board
        if kind == "lost":
            distributed._board = kept
            lose(kept, rank)
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


def lose(shared: Board | None, rank: int) -> None:
    """Takes the store away from one rank, as a broken network would."""
    assert shared is not None
    if rank == 1:

        class Broken:
            def check(self, _: object) -> bool:
                raise dist.DistNetworkError("connection reset by peer")

        shared._store = Broken()  # type: ignore[assignment]
        with pytest.warns(UserWarning, match=r"lost the board of the ranks \(connection reset by peer\): ranks also"):
            assert shared.read("topic") == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert shared.read("topic") == []
            shared.note("topic", [1])


@pytest.mark.slow  # each process imports torch
def test_processes_keep_what_one_process_keeps() -> None:
    multiprocessing.spawn(draw, args=(free_port(), 2), nprocs=2)


def without_a_board(rank: int, port: int) -> None:
    """Rank 1 cannot reach the store: no rank uses it, and rank 0 says so."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    if rank == 1:

        def refuse(*_: object, **__: object) -> None:
            raise dist.DistNetworkError("no route to host")

        dist.TCPStore = refuse  # type: ignore[assignment, misc]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        connect()
    assert board() is None
    words = [str(warning.message) for warning in caught if "board" in str(warning.message)]
    assert words == (["no board of the ranks (rank 1: no route to host): ranks also sample groups that turn out not to "
                      "be needed, which takes time and changes no result"] if rank == 0 else [])  # fmt: skip
    disconnect()
    dist.destroy_process_group()


@pytest.mark.slow  # each process imports torch
def test_a_board_that_one_rank_cannot_reach_is_used_by_none() -> None:
    multiprocessing.spawn(without_a_board, args=(free_port(),), nprocs=2)
