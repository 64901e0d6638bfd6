"""Grading beside sampling: a thread that judges what is finished while the engine samples the rest."""

import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class BesideSampling(Generic[T, R]):
    """Works through what it is given on a thread of its own, as much at a time as has come in.

    Used as a context; leaving it by an exception drops what waits.

    Args:
        work: Called on that thread, one call at a time, with at least one item; returns a result for each.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]]) -> None:
        self._work = work
        self._waiting: queue.SimpleQueue[tuple[int, T] | None] = queue.SimpleQueue()
        self._results: dict[int, R] = {}
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name="grading", daemon=True)

    def __enter__(self) -> "BesideSampling[T, R]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropped = self._dropped or kind is not None
        self._waiting.put(None)
        self._thread.join()

    def add(self, key: int, item: T) -> None:
        """Gives it an item; returns at once.

        Raises:
            Exception: What the work raised, so that sampling does not go on in vain.
        """
        if self._error is not None:
            raise self._error
        self._waiting.put((key, item))

    def results(self) -> dict[int, R]:
        """Waits for the results of all items, by key.

        Raises:
            Exception: What the work raised.
        """
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results

    def _run(self) -> None:
        last = False
        while not last:
            items = [self._waiting.get()]
            while not self._waiting.empty():
                items.append(self._waiting.get())
            last = None in items
            ready = [item for item in items if item is not None]
            if not ready or self._error is not None or self._dropped:
                continue
            try:
                outcomes = self._work([item for _, item in ready])
                self._results.update(zip((key for key, _ in ready), outcomes, strict=True))
            except BaseException as error:  # handed to the thread that waits
                self._error = error
