"""Exchanges of values and failures between ranks, in real processes."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from rence_lightning.distributed import (
    agree_on,
    broadcast,
    disconnect,
    gather,
    max_over_ranks,
    on_rank_zero,
    rank_and_world,
    sum_over_ranks,
)
from rence_lightning.errors import EngineError, PartError, PeerError, PeerFailed, Stopped, UserError

ROOT = Path(__file__).parents[1]


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
    assert rank_and_world() == (rank, world)
    assert gather({"rank": rank}) == [{"rank": each} for each in range(world)]
    assert sum_over_ranks(rank, 0.5) == [sum(range(world)), 0.5 * world]
    assert max_over_ranks(-float(rank)) == 0
    assert broadcast(f"from {rank}") == "from 0"
    assert on_rank_zero(lambda: f"work of {rank}") == "work of 0"
    for error, kind, message in (
        (UserError("bad"), UserError, "bad"),
        (EngineError("no memory"), EngineError, "no memory"),
        (PartError("a reward", "its trace"), PartError, "a reward"),
        (Stopped(signal.SIGTERM), Stopped, "SIGTERM"),
        (Unknown("two", "words"), PeerError, "two words (Unknown)"),
    ):
        if rank == 1:
            assert agree_on(error) is error
            continue
        with pytest.raises(PeerFailed) as caught:
            gather("this rank has not failed")
        agreed = agree_on(caught.value)
        assert type(agreed) is kind
        assert str(agreed) == (message if kind is Stopped else f"rank 1: {message}")
        assert not isinstance(agreed, PartError) or agreed.trace == "its trace"
    # Two ranks fail at once: all end with the error of the lower rank.
    agreed = agree_on(UserError(f"of {rank}")) if rank else agree_on(caught_in_gather())
    assert str(agreed) == {0: "rank 1: of 1", 1: "of 1", 2: "rank 1: of 1"}[rank]
    disconnect()
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
    assert broadcast(4) == 4 and on_rank_zero(lambda: 7) == 7
    error = ValueError("alone")
    assert agree_on(error) is error


# ---- the lifeline: processes that wait in a collective that does not notice a failure --------------------------------

SCRIPT = """
import os, signal, sys, time
import torch.distributed as dist
from rence_lightning import distributed, lifeline
from rence_lightning.errors import UserError

lifeline.GRACE_SECONDS, distributed.PEER_SECONDS = 2.0, 0.1
rank, failing, how = int(os.environ["RANK"]), int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo")
distributed.connect()
dist.barrier()
if how == "agree":
    # All come to an agreement; what follows (saving) may take longer than the time to agree.
    try:
        error = UserError("the cause")
        if rank != failing:
            distributed.gather(None)
    except distributed.PeerFailed as peer:
        error = peer
    print("agreed:", distributed.agree_on(error), flush=True)
    time.sleep(3 * lifeline.GRACE_SECONDS)
    distributed.disconnect()
    print("saved", flush=True)
    os._exit(0)
if rank != failing:
    time.sleep(3600)  # a collective that waits for the failing rank, which no exchange reaches
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
distributed.agree_on(UserError("the cause"))
"""


def start(rank: int, port: int, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("failing", "how"), [(0, "raise"), (2, "raise"), (0, "kill"), (1, "kill")])
def test_ranks_that_cannot_be_reached_are_ended(failing: int, how: str) -> None:
    port = free_port()
    processes = [start(rank, port, str(failing), how) for rank in range(3)]
    begun = time.monotonic()
    try:
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert time.monotonic() - begun < 60
    assert all(process.returncode != 0 for process in processes)
    lines = [line for output in outputs for line in output.splitlines() if line.startswith("error")]
    expected = f"error: rank {failing}: the cause" if how == "raise" else f"error: rank {failing} ended without"
    assert len(lines) == 1 and lines[0].startswith(expected), outputs
    assert not any("Traceback" in output for output in outputs)


def test_ranks_that_have_agreed_have_all_the_time_to_save() -> None:
    failing = 1
    port = free_port()
    processes = [start(rank, port, str(failing), "agree") for rank in range(3)]
    try:
        outputs = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
        assert process.returncode == 0 and "saved" in output, output
        assert f"agreed: {'the cause' if rank == failing else f'rank {failing}: the cause'}" in output
