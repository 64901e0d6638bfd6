"""The thread on which groups are graded: an event loop, on which the grading of many groups can wait at a time."""

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

CLOSE_SECONDS = 1.0
"""Longest wait for the thread's end."""


class GradingThread:
    """An event loop on a background thread, for all draws of a run: a client that a reward keeps belongs to its loop.

    Attributes:
        close: Function that cancels what waits on the loop and ends the thread; the end of the process calls it too.
    """

    def __init__(self) -> None:
        self._loop, ended = asyncio.new_event_loop(), asyncio.Event()
        thread = threading.Thread(target=_run, args=(self._loop, ended), name="grading", daemon=True)
        thread.start()
        self.close = weakref.finalize(self, _end, self._loop, ended, thread)

    def submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _run(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(ended.wait())


def _end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(ended.set)
    if thread is not threading.current_thread():  # which may collect the garbage
        thread.join(CLOSE_SECONDS)
