"""The pool of training prompts: drawing, the prompt cache Q, and mastery (Algorithm 1, lines 1, 5-6, 11 and 18).

Prompts are known by their index alone. All decisions are functions of the seed and of what `record`ed verdicts say, so
every rank that keeps a pool of its own keeps the same one.
"""

import random
from collections import deque
from collections.abc import Iterable
from typing import Any


class PromptPool:
    """Draws prompts in a new random order each epoch, never a mastered one, and none twice in an iteration.

    Args:
        indices: The prompts of the pool.
        seed: Of the order.
    """

    def __init__(self, indices: Iterable[int], seed: int) -> None:
        self._indices = list(indices)
        self._seed = seed
        self._epoch = 0
        self._queue: deque[int] = deque()
        self._cache: list[int] = []
        self._mastered: set[int] = set()
        self._drawn: set[int] = set()

    @property
    def left(self) -> int:
        """Prompts not mastered."""
        return len(self._indices) - len(self._mastered)

    @property
    def mastered(self) -> frozenset[int]:
        return frozenset(self._mastered)

    @property
    def cached(self) -> tuple[int, ...]:
        return tuple(self._cache)

    def start_iteration(self) -> None:
        """Makes every prompt drawable again."""
        self._drawn = set()

    def draw(self, count: int) -> list[int]:
        """The next prompts to sample: the whole cache if it holds any, else the next `count` of the order.

        Fewer, or none, when all that is not mastered has been drawn in this iteration.
        """
        if self._cache:
            drawn, self._cache = self._cache, []
        else:
            drawn = self._next(count)
        self._drawn.update(drawn)
        return drawn

    def master(self, index: int) -> None:
        """Removes a prompt from the pool for the rest of the run."""
        self._mastered.add(index)

    def cache(self, indices: Iterable[int]) -> None:
        """Keeps prompts whose groups were left over: they are sampled anew, first thing in the next iteration."""
        self._cache.extend(indices)

    def _next(self, count: int) -> list[int]:
        chosen: list[int] = []
        waiting: list[int] = []
        taken = set(self._drawn)
        drawable = self.left - len(self._drawn - self._mastered)
        while len(chosen) < min(count, drawable):
            if not self._queue:
                self._queue.extend(self._shuffled_epoch())
            index = self._queue.popleft()
            if index in self._mastered:
                continue
            if index in taken:
                waiting.append(index)  # comes round again before this iteration ends: its turn is the next iteration's
                continue
            chosen.append(index)
            taken.add(index)
        self._queue.extendleft(reversed(waiting))
        return chosen

    def _shuffled_epoch(self) -> list[int]:
        order = [index for index in self._indices if index not in self._mastered]
        random.Random(f"{self._seed}/{self._epoch}").shuffle(order)
        self._epoch += 1
        return order

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next draw depends on, in plain lists and numbers."""
        return {
            "epoch": self._epoch,
            "queue": list(self._queue),
            "cache": list(self._cache),
            "mastered": sorted(self._mastered),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch = state["epoch"]
        self._queue = deque(state["queue"])
        self._cache = list(state["cache"])
        self._mastered = set(state["mastered"])
        self._drawn = set()
