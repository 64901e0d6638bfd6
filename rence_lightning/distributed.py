"""Exchanges of values and errors between the processes of a run, so that all processes fail together.

A rank that has failed takes part in the next exchange of the others with its error instead of a value, and all ranks
end with that error at the same place. A rank that cannot reach the others ends alone: that a process has ended is the
business of what started it (torch's elastic agent, torchrun, srun), which then ends the others. Exchanges use a
separate process group, so that they never mix with a collective of the strategy. In a run of one process, the functions
return the process's own values.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch.distributed as dist

from rence_lightning.errors import (
    OURS,
    PartError,
    PeerError,
    PeerFailed,
    PeerLost,
    Stopped,
    UserError,
    exit_code,
    one_line,
    report,
)

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Default of `trainer.timeout_minutes`: longest time that a rank waits for the others."""

AGREE_SECONDS = 30.0
"""Time for all ranks to come to the exchange after an error; the others may be grading, for example."""

COLLECTIVE_SECONDS = 5.0
"""The same for an error among collectives of the strategy; it is enough if all ranks have the same error."""

LAUNCHER_SECONDS = 2.0
"""Time for the launcher to end a rank that has lost another: it knows which process ended first, and how."""

POLL_SECONDS = 0.2
"""Time between two looks at whether another rank has failed."""

LATE = "another process hangs, or needs longer than trainer.timeout_minutes; continue with --ckpt_path last"
LOST = "another process was killed, perhaps because the machine ran out of memory; continue with --ckpt_path last"

_board: "Board | None" = None
_looked = 0.0
_sessions = 0
_timeout = TIMEOUT
_in_collectives = False
_group: tuple[Any, Any] | None = None


def rank_and_world() -> tuple[int, int]:
    """The number of this process, and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """Gives the values of all ranks, in the order of the ranks, to every rank.

    Raises:
        PeerFailed: Another rank has failed; raised on every rank that has not failed itself.
        PeerLost: Another rank has ended, or did not come within `trainer.timeout_minutes`.
    """
    return _exchange(value, None) if rank_and_world()[1] > 1 else [value]


def broadcast(value: T) -> T:
    """Gives the value of rank 0 to every rank."""
    rank, _ = rank_and_world()
    first: Any = gather(value if rank == 0 else None)[0]
    return cast(T, first)


def sum_over_ranks(*values: float) -> list[float]:
    """Sums over all ranks, identical to the bit on every rank."""
    return [sum(each) for each in zip(*gather(values), strict=True)]


def max_over_ranks(value: float) -> float:
    """The largest value of any rank."""
    return max(gather(value))


def on_rank_zero(work: Callable[[], T]) -> T:
    """Does the work on rank 0 alone, and returns its result on every rank; the other ranks wait for it."""
    rank, _ = rank_and_world()
    return broadcast(work() if rank == 0 else cast(T, None))


def check_same(value: object, what: str) -> None:
    """Compares a value that all ranks must have alike.

    Args:
        value: Value of this rank, which can be compared and sent.
        what: What it describes, for the error.

    Raises:
        UserError: The ranks have different values.
    """
    if any(other != value for other in gather(value)):
        raise UserError(
            f"{what} differ between processes; make them the same in each, for example with random.Random(0) in "
            "place of the unseeded random"
        )


class Board:
    """Numbers that all ranks note and read at any time, without waiting for one another.

    Args:
        store: Store of the process group, in which the topics have a place of their own.
    """

    def __init__(self, store: dist.Store) -> None:
        self._store = store

    def note(self, topic: str, numbers: Iterable[int]) -> None:
        """Adds numbers to a topic."""
        text = "".join(f"{number} " for number in numbers)
        self._store.append(topic, text)  # type: ignore[attr-defined]  # not in torch's stubs

    def read(self, topic: str) -> list[int]:
        """The numbers that any rank, this one included, has noted on a topic so far."""
        return [int(number) for number in self._store.get(topic).split()] if self._store.check([topic]) else []

    def remove(self, topic: str) -> None:
        """Forgets a topic that no rank reads any more."""
        self._store.delete_key(topic)


def board() -> Board | None:
    """The board of this run's ranks; None for a run of one process."""
    return _board


# ---- failing together -----------------------------------------------------------------------------------------------


def connect(timeout: timedelta = TIMEOUT) -> None:
    """Opens the board, in the store of the process group; every rank must call it.

    Args:
        timeout: Longest time that a rank waits for the others in an exchange.
    """
    global _board, _sessions, _timeout
    if rank_and_world()[1] == 1:
        return
    _timeout, _sessions = timeout, _sessions + 1
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the agent's store outlives the processes
    _board = Board(dist.PrefixStore(f"rence/{attempt}/{_sessions}", store))


def disconnect() -> None:
    """Waits until all ranks have finished, because a launcher ends the others when one exits; closes the exchanges."""
    global _board, _group
    if rank_and_world()[1] > 1:
        with suppress(RuntimeError):
            dist.monitored_barrier(_control_group(), timedelta(seconds=AGREE_SECONDS))
    _board = None
    _group = None  # a process group that is still referred to when the interpreter ends aborts the process


@contextmanager
def collectives() -> Iterator[None]:
    """Work in which ranks meet in the strategy's own collectives: where one raises, the others cannot agree with it."""
    global _in_collectives
    _in_collectives = True
    yield
    _in_collectives = False  # stays set where an error leaves the block: `agree_on` looks at it


def check_peers() -> None:
    """Interrupts work that has no use after the failure of another rank; cheap enough for every step of sampling.

    Raises:
        PeerFailed: Another rank has failed.
    """
    global _looked
    if _board is not None and time.monotonic() - _looked >= POLL_SECONDS:
        if _board.read("failed"):
            raise PeerFailed
        _looked = time.monotonic()


def agree_on(error: BaseException) -> BaseException:
    """Exchanges this rank's error with the others, and returns the error that all ranks end with.

    The result is this rank's own error; or that of another rank, with the rank's number and of the same class, or a
    `PeerError` if the class is not one of this project's. The function does not return if the other ranks cannot be
    reached: it then reports the error and ends the process.

    Args:
        error: Error that this rank's work has raised.
    """
    global _in_collectives
    seconds = COLLECTIVE_SECONDS if _in_collectives else AGREE_SECONDS
    _in_collectives = False
    rank, world = rank_and_world()
    if world == 1:
        return error
    if isinstance(error, PeerFailed) and error.error is not None:  # an exchange has brought it: all know of it
        return error.error
    own = None if isinstance(error, PeerFailed) else _for_others(error, rank)
    alarm = threading.Timer(seconds, _end_alone, [error])
    alarm.daemon = True
    try:
        if isinstance(error, PeerLost):
            raise error
        alarm.start()
        if own is not None and _board is not None:
            _board.note("failed", [rank])
        _exchange(None, own)
    except PeerFailed as agreed:
        alarm.cancel()
        return error if agreed.rank == rank or agreed.error is None else agreed.error
    except RuntimeError:  # another rank has ended, of which this rank's error may be a consequence
        alarm.cancel()
        time.sleep(LAUNCHER_SECONDS)
    return _end_alone(error)


def _for_others(error: BaseException, rank: int) -> BaseException:
    """The error that the other ranks end with, which can be sent to them."""
    if isinstance(error, Stopped):
        return Stopped(error.signal)
    if isinstance(error, KeyboardInterrupt):
        return KeyboardInterrupt()
    message = f"rank {rank}: {one_line(error)}"
    if isinstance(error, PartError | PeerError):
        return type(error)(message, error.trace)
    if type(error) in OURS:
        return type(error)(message)
    return PeerError(f"{message} ({type(error).__name__})", "".join(traceback.format_exception(error)))


def _end_alone(error: BaseException) -> NoReturn:
    """Ends this process at once, even if its other threads are waiting."""
    try:
        report(error, aloud=True)
    finally:  # also where nobody reads the output any more
        os._exit(exit_code(error))


def _exchange(value: T, failure: BaseException | None) -> list[T]:
    envelopes: list[Any] = [None] * rank_and_world()[1]
    try:
        dist.all_gather_object(envelopes, (failure, value), group=_control_group())
    except RuntimeError as error:
        raise PeerLost(LATE if "timed out" in str(error).lower() else LOST) from error
    for rank, (failed, _) in enumerate(envelopes):
        if failed is not None:
            raise PeerFailed(rank, failed)
    return [each for _, each in envelopes]


def _control_group() -> Any:
    """The process group of the exchanges, which works in main memory."""
    global _group
    world = dist.group.WORLD
    if _group is None or _group[0] is not world:
        _group = (world, dist.new_group(backend="gloo", timeout=_timeout))
    return _group[1]
