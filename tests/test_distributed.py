"""Exchanges of values and failures between ranks, in real processes."""

import os
import signal
import socket
import time

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from rence_lightning.distributed import (
    agree_on,
    board,
    check_peers,
    connect,
    disconnect,
    gather,
    max_over_ranks,
    on_rank_zero,
    rank_and_world,
    sum_over_ranks,
)
from rence_lightning.errors import EngineError, PartError, PeerError, PeerFailed, Stopped, UserError


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def meet(rank: int, port: int, world: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)


class Unknown(Exception):
    """An error that cannot be rebuilt on another rank: its class takes two arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def talk(rank: int, port: int, world: int) -> None:
    """Rank 1 fails in several ways while the other ranks are in an exchange; all end with the same error."""
    meet(rank, port, world)
    connect()
    assert rank_and_world() == (rank, world)
    assert gather({"rank": rank}) == [{"rank": each} for each in range(world)]
    assert sum_over_ranks(rank, 0.5) == [sum(range(world)), 0.5 * world]
    assert max_over_ranks(-float(rank)) == 0
    assert on_rank_zero(lambda: f"work of {rank}") == "work of 0"
    for error, kind, message in (
        (UserError("bad"), UserError, "bad"),
        (EngineError("no memory"), EngineError, "no memory"),
        (PartError("a reward", "its trace"), PartError, "a reward"),
        (Stopped(signal.SIGTERM), Stopped, "SIGTERM"),
        (Unknown("two", "words"), PeerError, "two words (Unknown)"),
    ):
        connect()  # as for the next run of this process
        if rank == 1:
            assert agree_on(error) is error
            continue
        with pytest.raises(PeerFailed) as caught:
            while rank == 2:  # it does not wait for the others
                time.sleep(0.05)
                check_peers()
            gather("this rank has not failed")
        agreed = agree_on(caught.value)
        assert type(agreed) is kind
        assert str(agreed) == (message if kind is Stopped else f"rank 1: {message}")
        assert not isinstance(agreed, PartError) or agreed.trace == "its trace"
    # Two ranks fail at once: all end with the error of the lower rank.
    agreed = agree_on(UserError(f"of {rank}")) if rank else agree_on(caught_in_gather())
    assert str(agreed) == {0: "rank 1: of 1", 1: "of 1", 2: "rank 1: of 1"}[rank]
    disconnect()
    assert board() is None
    dist.destroy_process_group()


def caught_in_gather() -> BaseException:
    with pytest.raises(PeerFailed) as caught:
        gather(None)
    return caught.value


def test_all_ranks_receive_values_and_failures() -> None:
    multiprocessing.spawn(talk, args=(free_port(), 3), nprocs=3)


def test_a_single_process_gets_its_own_values() -> None:
    assert rank_and_world() == (0, 1)
    assert gather("x") == ["x"] and sum_over_ranks(1.5, 2) == [1.5, 2] and max_over_ranks(3) == 3
    assert on_rank_zero(lambda: 7) == 7
    error = ValueError("alone")
    assert agree_on(error) is error
