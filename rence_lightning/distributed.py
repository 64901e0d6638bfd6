"""Exchanges of values and errors between the processes of a run, so that all processes fail together.

A rank that has failed takes part in the next exchange of the others with its error instead of a value, and all ranks
end with that error at the same place. A rank that cannot reach the others ends alone, and what started the processes
(torch's elastic agent, torchrun, srun) ends the others. Exchanges have a process group of their own, so that they never
mix with collectives of the strategy. A run of one process gets its own values.
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
    PeerError,
    PeerFailed,
    PeerLost,
    Stopped,
    TracedError,
    UserError,
    exit_code,
    one_line,
    report,
)

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Default of `trainer.timeout_minutes`: longest time that a rank waits for the others."""

AGREE_SECONDS = 30.0  # for all ranks to come to an exchange after an error: they may be grading, for example
COLLECTIVE_SECONDS = 5.0  # the same after an error among the strategy's collectives, where the others may be stuck
LAUNCHER_SECONDS = 2.0  # for the launcher to end a rank that has lost another: it knows which ended first, and how
POLL_SECONDS = 0.2  # between two looks at whether another rank has failed

LATE = "another process hangs, or needs longer than trainer.timeout_minutes; continue with --ckpt_path last"
LOST = "another process was killed, perhaps because the machine ran out of memory; continue with --ckpt_path last"

_board: "Board | None" = None
_looked = 0.0
_sessions = 0
_timeout = TIMEOUT
_in_collectives = False
_group: Any = None


def rank_and_world() -> tuple[int, int]:
    """The number of this process, and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def longest_wait() -> timedelta:
    """Longest time that a rank waits for the others, `trainer.timeout_minutes`."""
    return _timeout


def gather(value: T) -> list[T]:
    """Gives the values of all ranks, in the order of the ranks, to every rank. Raises `PeerFailed` if one has failed,
    and `PeerLost` if one has ended or did not come within `trainer.timeout_minutes`."""
    return _exchange(value, None) if rank_and_world()[1] > 1 else [value]


def sum_over_ranks(*values: float) -> list[float]:
    """Sums over all ranks, identical to the bit on every rank."""
    return [sum(each) for each in zip(*gather(values), strict=True)]


def max_over_ranks(value: float) -> float:
    """The largest value of any rank."""
    return max(gather(value))


def on_rank_zero(work: Callable[[], T]) -> T:
    """Does the work on rank 0 alone, and returns its result on every rank, which wait for it."""
    return gather(work() if rank_and_world()[0] == 0 else cast(T, None))[0]


def check_same(value: object, what: str) -> None:
    """Refuses a value that differs between ranks; `what` names it in the error."""
    if any(other != value for other in gather(value)):
        fix = "make them the same in each, for example with random.Random(0) in place of the unseeded random"
        raise UserError(f"{what} differ between processes; {fix}")


class Board:
    """Numbers in a store that all ranks note and read at any time, without waiting for one another."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store

    def note(self, topic: str, numbers: Iterable[int]) -> None:
        """Adds numbers to a topic."""
        self._store.append(topic, "".join(f"{number} " for number in numbers))  # type: ignore[attr-defined]  # not in torch's stubs

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
    """Opens the board, and sets how long a rank waits for the others in an exchange; every rank must call it."""
    global _board, _sessions, _timeout
    if rank_and_world()[1] == 1:
        return
    _timeout, _sessions = timeout, _sessions + 1
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
    _board = Board(dist.PrefixStore(f"rence/{_sessions}", store))


def disconnect() -> None:
    """Waits until all ranks have finished, because a launcher ends the others when one exits; closes the exchanges."""
    global _board, _group
    if _group is not None:
        with suppress(RuntimeError):
            dist.monitored_barrier(_group, timedelta(seconds=AGREE_SECONDS))
    _board = _group = None  # a process group that is still referred to when the interpreter ends aborts the process


@contextmanager
def collectives() -> Iterator[None]:
    """Work in which ranks meet in the strategy's own collectives: where one raises, the others cannot agree with it."""
    global _in_collectives
    _in_collectives = True
    try:
        yield
    except RuntimeError as error:
        if _timed_out(error):
            raise PeerLost(LATE) from error
        raise
    _in_collectives = False  # stays set where an error leaves the block: `agree_on` looks at it


def check_peers() -> None:
    """Raises `PeerFailed` if another rank has failed; cheap enough for every step of sampling."""
    global _looked
    if _board is not None and time.monotonic() - _looked >= POLL_SECONDS:
        if _board.read("failed"):
            raise PeerFailed
        _looked = time.monotonic()


def agree_on(error: BaseException) -> BaseException:
    """Exchanges this rank's error with the others, and returns the error that all ranks end with.

    That is this rank's own error; or that of another rank, with the rank's number and of the same class, or a
    `PeerError` if the class is not one of this project's. Where the others cannot be reached, the process ends here.
    """
    global _in_collectives
    seconds = COLLECTIVE_SECONDS if _in_collectives else AGREE_SECONDS
    _in_collectives = False
    rank, world = rank_and_world()
    if world == 1:
        return error
    if isinstance(error, PeerFailed) and error.error is not None:  # an exchange has brought it: all know of it
        return error.error
    own = None if isinstance(error, PeerFailed) else _for_others(error)
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


def _for_others(error: BaseException) -> BaseException:
    """The error that the other ranks end with, which names this rank and can be sent to them."""
    if isinstance(error, Stopped):
        return Stopped(error.signal)
    if isinstance(error, KeyboardInterrupt):
        return KeyboardInterrupt()
    message = f"rank {rank_and_world()[0]}: {one_line(error)}"
    if isinstance(error, TracedError):
        return type(error)(message, error.trace)
    if type(error) in OURS and not isinstance(error, PeerFailed):
        return type(error)(message)
    return PeerError(f"{message} ({type(error).__name__})", "".join(traceback.format_exception(error)))


def _end_alone(error: BaseException) -> NoReturn:
    """Ends this process at once, even if its other threads are waiting."""
    try:
        report(_for_others(error), aloud=True)
    finally:  # also where nobody reads the output any more
        os._exit(exit_code(error))


def _exchange(value: T, failure: BaseException | None) -> list[T]:
    global _group
    if _group is None:  # it works in main memory, also where the strategy's works on GPUs
        _group = dist.new_group(backend="gloo", timeout=_timeout)
    envelopes: list[Any] = [None] * rank_and_world()[1]
    try:
        dist.all_gather_object(envelopes, (failure, value), group=_group)
    except RuntimeError as error:
        raise PeerLost(LATE if _timed_out(error) else LOST) from error
    for rank, (failed, _) in enumerate(envelopes):
        if failed is not None:
            raise PeerFailed(rank, failed)
    return [each for _, each in envelopes]


def _timed_out(error: RuntimeError) -> bool:
    return type(error) is RuntimeError and "timed out" in str(error).lower()  # gloo's errors have no class of their own
