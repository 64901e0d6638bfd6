"""What the processes of a run tell one another, so that they fail together; with one process, the plain meaning.

Every exchange carries a failure instead of a value where a rank has one: a rank that raises joins the others' next
exchange with its error, and all end with that error at the same place. Exchanges use a process group of their own, so
that they never meet a collective of the strategy. Where the others wait in such a collective, they cannot come to an
exchange: after a grace period `lifeline` ends them.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch.distributed as dist

from rence_lightning import errors, lifeline
from rence_lightning.errors import PeerError, PeerFailed, Stopped, exit_code, explanation, one_line
from rence_lightning.lifeline import Failure, Lifeline

T = TypeVar("T")

PEER_SECONDS = 2.0
"""How long a rank with an error waits for news of another's death: broken connections are a consequence of it."""

COLLECTIVE_SECONDS = 5.0
"""Time to agree on a failure between collectives of the strategy: enough where all ranks have failed alike."""

_line: Lifeline | None = None
_in_collectives = False
_group: tuple[Any, Any] | None = None


def rank_and_world() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """The value that each rank has, on all ranks, in their order.

    Raises:
        PeerFailed: A rank has failed; on every rank that has not failed itself.
    """
    return _exchange(value, None) if rank_and_world()[1] > 1 else [value]


def broadcast(value: T) -> T:
    """Rank 0's value, on all ranks."""
    rank, _ = rank_and_world()
    first: Any = gather(value if rank == 0 else None)[0]
    return cast(T, first)


def sum_over_ranks(*values: float) -> list[float]:
    """Sums over all ranks, the same to the bit on each."""
    return [sum(each) for each in zip(*gather(values), strict=True)]


def max_over_ranks(value: float) -> float:
    """The largest value of any rank."""
    return max(gather(value))


def on_rank_zero(work: Callable[[], T]) -> T:
    """What the work returns, which rank 0 alone does, on all ranks; they wait for it."""
    rank, _ = rank_and_world()
    return broadcast(work() if rank == 0 else cast(T, None))


# ---- failing together -----------------------------------------------------------------------------------------------


def connect() -> None:
    """Opens the lifeline; every rank takes part. Without it, failures are agreed on as far as exchanges reach."""
    global _line
    rank, world = rank_and_world()
    if world > 1 and _line is None:
        _line = Lifeline(rank, world, gather, os.environ.get("MASTER_ADDR", "127.0.0.1"))


def disconnect() -> None:
    """Closes the lifeline, where this rank has finished."""
    global _line
    if _line is not None:
        _line.close()
        _line = None


@contextmanager
def collectives() -> Iterator[None]:
    """Work in which ranks meet in the strategy's own collectives: where one raises, the others cannot agree with it."""
    global _in_collectives
    _in_collectives = True
    yield
    _in_collectives = False  # stays set where an error leaves the block: `agree_on` looks at it


def check_peers() -> None:
    """Interrupts work that need not be finished when another rank has failed; cheap enough for every step of sampling.

    Raises:
        PeerFailed: Another rank has failed.
    """
    if _line is not None and _line.failed.is_set():
        raise PeerFailed


def agree_on(error: BaseException) -> BaseException:
    """Exchanges this rank's error with the others: the error that all ranks end with.

    It is this rank's own, or one of the same class with the rank's number; a `PeerError` where the class is not the
    project's. It does not return where the other ranks cannot be reached: the lifeline then ends the process.

    Args:
        error: What this rank's work has raised.
    """
    global _in_collectives
    seconds = COLLECTIVE_SECONDS if _in_collectives else lifeline.GRACE_SECONDS
    _in_collectives = False
    rank, world = rank_and_world()
    if world == 1 or (isinstance(error, PeerFailed) and error.failure is not None):
        return _rebuilt(error)
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
        assert agreed.failure is not None
        if _line is not None:
            _line.agreed()
        return error if agreed.failure == own else _rebuilt(agreed)
    except RuntimeError:  # the exchange itself broke, because a rank is gone: the lifeline ends this process
        if _line is not None:
            threading.Event().wait(2 * lifeline.GRACE_SECONDS)
    return error


def failure_of(error: BaseException, rank: int) -> Failure:
    """An error as the other ranks see it, and as it is printed on behalf of this rank."""
    message = one_line(error)
    named = f"rank {rank}: {message}"
    text = explanation(error)
    if text:
        text = text.replace(f"error: {message}", f"error: {named}", 1)
    return Failure(rank, type(error).__name__, named, text, exit_code(error))


def _rebuilt(error: BaseException) -> BaseException:
    """The error of another rank, of the class that it had there."""
    if not isinstance(error, PeerFailed) or error.failure is None:
        return error
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
    """A process group for exchanges alone, in main memory."""
    global _group
    world = dist.group.WORLD
    if _group is None or _group[0] is not world:
        _group = (world, dist.new_group(backend="gloo"))
    return _group[1]
