"""Rewards that wait, for a server or a program: many responses of many groups are graded at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from inspect import iscoroutinefunction
from threading import Thread
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from rence_lightning.rewards.reward import Response, Reward, Score

T = TypeVar("T")

Loop = asyncio.AbstractEventLoop
_slots: WeakKeyDictionary[Loop, dict[tuple[int, int], asyncio.Semaphore]] = WeakKeyDictionary()


def slots_of(reward: object, number: int = 1) -> asyncio.Semaphore:
    """The slots of a reward on this thread's event loop: so many calls of it are open at a time."""
    known = _slots.setdefault(asyncio.get_running_loop(), {})
    return known.setdefault((id(reward), number), asyncio.Semaphore(number))


async def scores_by(reward: Reward, responses: Sequence[Response]) -> list[Score]:
    """The scores by a reward, which may have a `score_async`, or a `score` that is an `async def`. Any other `score` is
    called in a thread without an event loop, one call at a time."""
    score = getattr(reward, "score_async", reward.score)
    if iscoroutinefunction(score):
        return cast(list[Score], await score(responses))
    return await in_thread(lambda: reward.score(responses), slots_of(reward))


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that wait at the same time, in order; an error in one ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def in_thread(work: Callable[[], T], slots: asyncio.Semaphore) -> T:
    """The result of a function that blocks. It cannot be cancelled: where nobody waits for it any more, it goes on to
    its end and holds its slot until then. The end of the process does not wait for it, as it would for an executor."""
    loop, done = asyncio.get_running_loop(), Future[T]()
    ended = loop.create_future()

    def settle() -> None:
        slots.release()
        if not ended.done():
            ended.set_result(None)

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # else nobody would hear of the end of this thread
            done.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed: the run has ended
            loop.call_soon_threadsafe(settle)

    await slots.acquire()
    Thread(target=run, name="grading", daemon=True).start()
    await ended
    return done.result()


def without_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, in code that waits for it; the thread may have an event loop, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
