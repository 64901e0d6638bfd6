"""What the processes of a run tell one another; with one process, each function is its plain meaning."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from rence_lightning.errors import EngineError

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """The value that each rank has, on all ranks, in their order."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(*values: float) -> list[float]:
    """Sums over all ranks, the same to the bit on each."""
    return [sum(each) for each in zip(*gather(values), strict=True)]


def max_over_ranks(value: float) -> float:
    """The largest value of any rank."""
    return max(gather(value))


def on_every_rank(work: Callable[[], T]) -> list[T]:
    """What each rank's work returns.

    Raises:
        EngineError: On every rank, where the work of one raises it: they stop together.
    """
    if rank_and_world()[1] == 1:
        return [work()]
    try:
        outcome: T | EngineError = work()
    except EngineError as error:
        outcome = error
    outcomes = gather(outcome)
    for rank, each in enumerate(outcomes):
        if isinstance(each, EngineError):
            raise EngineError(f"rank {rank}: {each}")
    return outcomes  # type: ignore[return-value]
