"""Exchanges of values and failures between the processes of a run, so that all processes fail together.

A rank that has failed takes part in the next exchange of the others with its error instead of a value, and all ranks
end with that error at the same place. Exchanges use a separate process group, so that they never mix with a collective
of the strategy. Ranks that wait in such a collective do not reach an exchange; `lifeline` ends them after a grace
period. In a run of one process, the functions return the process's own values.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import AuthenticationError
from typing import Any, TypeVar, cast

import torch.distributed as dist

from rence_lightning import errors, lifeline
from rence_lightning.errors import PeerError, PeerFailed, Stopped, UserError, exit_code, explanation, one_line
from rence_lightning.lifeline import Failure, Lifeline

T = TypeVar("T")

PEER_SECONDS = 2.0
"""Time that a rank with an error waits for the failure of another rank, of which its error may be a consequence (a
broken connection, for example)."""

COLLECTIVE_SECONDS = 5.0
"""Time to agree on a failure among collectives of the strategy; it is enough if all ranks have the same failure."""

EXCHANGE_TIMEOUT = timedelta(days=7)
"""A rank may wait long for a slower one; that another is gone, the lifeline notices."""

BOARD_TIMEOUT = timedelta(seconds=10)
"""Time for a rank to reach the board."""

_line: Lifeline | None = None
_board: "Board | None" = None
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


# ---- reading without waiting ----------------------------------------------------------------------------------------


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

    It carries hints only: a number may arrive late or, after a failure of the network, never.

    Args:
        store: Connection to the store in rank 0.
    """

    def __init__(self, store: dist.TCPStore) -> None:
        self._store: dist.TCPStore | None = store

    def note(self, topic: str, numbers: Iterable[int]) -> None:
        """Adds numbers to a topic."""
        text = "".join(f"{number} " for number in numbers)
        self._try(lambda store: store.append(topic, text))  # type: ignore[attr-defined]  # not in torch's stubs

    def read(self, topic: str) -> list[int]:
        """The numbers that any rank, this one included, has noted on a topic so far."""
        text = self._try(lambda store: store.get(topic) if store.check([topic]) else b"")
        return [int(number) for number in (text or b"").split()]

    def remove(self, topic: str) -> None:
        """Forgets a topic that no rank reads any more."""
        self._try(lambda store: store.delete_key(topic))

    def _try(self, work: Callable[[dist.TCPStore], T]) -> T | None:
        """Works on the store; after its first failure, which is reported, it is never used again."""
        if self._store is None:
            return None
        try:
            return work(self._store)
        except RuntimeError as error:
            self._store = None
            warnings.warn(f"lost the board of the ranks ({one_line(error)}): {WITHOUT_BOARD}", stacklevel=4)
            return None


WITHOUT_BOARD = "ranks also sample groups that turn out not to be needed, which takes time and changes no result"


def board() -> Board | None:
    """The board of this run's ranks; None for a run of one process, or where the ranks cannot reach it."""
    return _board


# ---- failing together -----------------------------------------------------------------------------------------------


def connect() -> None:
    """Opens the lifeline and the board; every rank must call it.

    Without a lifeline, ranks learn of failures in exchanges only.
    """
    global _line, _board
    rank, world = rank_and_world()
    if world == 1 or _line is not None:
        return
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    _line = _open(
        lambda: Lifeline(rank, world, gather, host),
        "no connection between the ranks beside the collectives",
        "a rank that fails within a collective ends the others only after its timeout",
    )
    _board = _open(lambda: _open_board(rank, host), "no board of the ranks", WITHOUT_BOARD)


def _open(make: Callable[[], T], problem: str, consequence: str) -> T | None:
    """Makes something on every rank; where one rank cannot, none has it, and rank 0 warns."""
    made, failure = None, None
    try:
        made = make()
    except (OSError, EOFError, AuthenticationError, dist.DistError) as error:
        failure = f"rank {rank_and_world()[0]}: {one_line(error)}"
    failures = [each for each in gather(failure) if each is not None]
    if not failures:
        return made
    if rank_and_world()[0] == 0:
        warnings.warn(f"{problem} ({failures[0]}): {consequence}", stacklevel=3)
    return None


def _open_board(rank: int, host: str) -> Board:
    """Starts the store in rank 0, on a free port, and connects every rank to it."""
    store, port = None, 0
    if rank == 0:
        with suppress(dist.DistError):
            store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=BOARD_TIMEOUT)
            port = store.port
    port = broadcast(port)
    if not port:
        raise OSError("rank 0 has no port for it")
    if store is None:
        store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=BOARD_TIMEOUT)
    return Board(store)


def disconnect() -> None:
    """Closes the lifeline after this rank has finished."""
    global _line, _board, _group
    if _line is not None:
        _line.close()
        _line = None
    _board = None  # its server ends in rank 0, after all ranks have finished
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
    if _line is not None and _line.failed.is_set():
        raise PeerFailed


def agree_on(error: BaseException) -> BaseException:
    """Exchanges this rank's error with the others, and returns the error that all ranks end with.

    The result is this rank's own error; or that of another rank, with the rank's number and of the same class, or a
    `PeerError` if the class is not one of this project's. The function does not return if the other ranks cannot be
    reached, because the lifeline then ends the process.

    Args:
        error: Error that this rank's work has raised.
    """
    global _in_collectives
    seconds = COLLECTIVE_SECONDS if _in_collectives else lifeline.GRACE_SECONDS
    _in_collectives = False
    rank, world = rank_and_world()
    if world == 1:
        return error
    if isinstance(error, PeerFailed) and error.failure is not None:  # an exchange has brought it: all know of it
        return _agreed(error)
    own = None if isinstance(error, PeerFailed) else failure_of(error, rank)
    if _line is not None and own is not None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            _line.announce(own, 0.0)
        else:
            if not isinstance(error, Stopped):
                _line.failed.wait(PEER_SECONDS)
            _line.announce(own, seconds)
    try:
        _exchange(None, own)
    except PeerFailed as agreed:
        other = _agreed(agreed)
        return error if agreed.failure == own else other
    except RuntimeError:  # the exchange itself failed, because a rank has ended; the lifeline ends this process
        if _line is not None:
            threading.Event().wait(2 * lifeline.GRACE_SECONDS)
    return error


def failure_of(error: BaseException, rank: int) -> Failure:
    """The failure that describes this rank's error to the other ranks, with the text to print."""
    message = one_line(error)
    named = f"rank {rank}: {message}"
    text = explanation(error)
    if text:
        text = text.replace(f"error: {message}", f"error: {named}", 1)
    return Failure(rank, type(error).__name__, named, text, exit_code(error))


def _agreed(error: PeerFailed) -> BaseException:
    """The error that all ranks have agreed on, of the class that it has on the rank that failed."""
    if _line is not None:
        _line.agreed()
    assert error.failure is not None
    failure = error.failure
    if failure.kind == "Stopped":
        return Stopped(failure.code - 128)
    if failure.kind == "KeyboardInterrupt":
        return KeyboardInterrupt()
    kind = getattr(errors, failure.kind, None)
    trace = "\n".join(line for line in failure.text.splitlines() if not line.startswith("error: "))
    if kind in (errors.PartError, errors.PeerError):
        return kind(failure.message, trace)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind(failure.message)
    return PeerError(f"{failure.message} ({failure.kind})", trace)


def _exchange(value: T, failure: Failure | None) -> list[T]:
    _, world = rank_and_world()
    envelopes: list[Any] = [None] * world
    dist.all_gather_object(envelopes, (failure, value), group=_control_group())
    failures = [each for each, _ in envelopes if each is not None]
    if failures:
        raise PeerFailed(failures[0])
    return [each for _, each in envelopes]


def _control_group() -> Any:
    """The process group of the exchanges, which works in main memory."""
    global _group
    world = dist.group.WORLD
    if _group is None or _group[0] is not world:
        _group = (world, dist.new_group(backend="gloo", timeout=EXCHANGE_TIMEOUT))
    return _group[1]
