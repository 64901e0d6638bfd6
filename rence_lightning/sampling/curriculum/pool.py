"""The pool of training prompts: drawing, the prompt cache Q, and mastery (Algorithm 1, lines 1, 5-6, 11, 18).

A prompt is represented by its index alone. All decisions are functions of the seed and of the recorded groups, so that
the pools of all ranks are equal.
"""

import random
from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Any

from rence_lightning.errors import UserError


class ShuffledEpochs:
    """An endless sequence of the prompts of one data set, in a new random order in each epoch.

    Args:
        indices: Indices of the prompts.
        name: Name of the random stream; the same name gives the same order.
    """

    def __init__(self, indices: Iterable[int], name: str) -> None:
        self.indices = list(indices)
        self._name = name
        self._epoch = 0
        self._queue: deque[int] = deque()

    def next(self, without: Container[int]) -> int:
        """The next prompt that is not in `without`. There must be one, or this never returns."""
        while True:
            if not self._queue:
                order = [index for index in self.indices if index not in without]
                random.Random(f"{self._name}/{self._epoch}").shuffle(order)
                self._queue.extend(order)
                self._epoch += 1
            index = self._queue.popleft()
            if index not in without:
                return index

    def put_back(self, indices: Sequence[int]) -> None:
        """Makes these prompts the next ones, in this order."""
        self._queue.extendleft(reversed(indices))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "queue": list(self._queue)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._queue = state["epoch"], deque(state["queue"])


class PromptPool:
    """Draws prompts in a new random order in each epoch, never a mastered one, and none twice in an iteration.

    Args:
        indices: Indices of the prompts, or with `weights` a list of indices for each data set.
        seed: Seed of the order.
        weights: Relative frequency with which each data set is drawn from, as evenly as whole turns allow. Once an
            iteration has drawn all prompts of a set, it draws from the others alone. None: every prompt is drawn once
            per epoch.

    Raises:
        UserError: The number of weights is not the number of data sets, or a weight is not positive.
    """

    def __init__(
        self, indices: Iterable[int] | Sequence[Sequence[int]], seed: int, weights: Sequence[float] | None = None
    ) -> None:
        sets: list[Any] = list(indices)
        if weights is not None and (len(weights) != len(sets) or not all(weight > 0 for weight in weights)):
            raise UserError(
                f"data.weights: {list(weights)}: give a weight > 0 for each of the {len(sets)} sources in data.problems"
            )
        named = {str(seed): sets} if weights is None else {f"{seed}/{n}": each for n, each in enumerate(sets)}
        self._sets = [ShuffledEpochs(each, name) for name, each in named.items()]
        self._weights = [1.0] if weights is None else list(weights)
        self._turns = [0] * len(self._sets)
        self._cache: list[int] = []
        self._mastered: set[int] = set()
        self._drawn: set[int] = set()

    @property
    def left(self) -> int:
        """Number of prompts that are not mastered."""
        return sum(len(each.indices) for each in self._sets) - len(self._mastered)

    @property
    def mastered(self) -> frozenset[int]:
        """Prompts that have left the pool."""
        return frozenset(self._mastered)

    @property
    def cached(self) -> tuple[int, ...]:
        """Prompts that are sampled first in the next iteration."""
        return tuple(self._cache)

    def start_iteration(self) -> None:
        """Starts an iteration, in which every prompt that is not mastered may be drawn again."""
        self._drawn = set()

    def draw(self, count: int) -> list[int]:
        """The next `count` prompts to sample: first those of the cache, then those of the order.

        There are fewer or none once all prompts that are not mastered have been drawn in this iteration.
        """
        drawn, self._cache = self._cache[:count], self._cache[count:]
        self._drawn.update(drawn)
        return drawn + self._next(count - len(drawn))

    def master(self, index: int) -> None:
        """Removes a prompt from the pool for the rest of the run."""
        self._mastered.add(index)

    def cache(self, indices: Sequence[int]) -> None:
        """Puts drawn prompts whose groups were not needed back, in front of all others: they are sampled again, from
        the next policy, at the start of the next iteration."""
        self._cache[:0] = indices

    def _next(self, count: int) -> list[int]:
        """The next prompts of the order that are neither mastered nor drawn in this iteration."""
        chosen: list[int] = []
        gone = self._drawn | self._mastered
        unseen = {n: left for n, each in enumerate(self._sets) if (left := sum(i not in gone for i in each.indices))}
        waiting: list[list[int]] = [[] for _ in self._sets]
        while len(chosen) < count and unseen:
            # The set whose turns are furthest below its weight.
            number = min(unseen, key=lambda n: ((self._turns[n] + 1) / self._weights[n], n))
            index = self._sets[number].next(without=self._mastered)
            if index in self._drawn:  # a new epoch has begun within this iteration: it waits for the next iteration
                waiting[number].append(index)
                continue
            chosen.append(index)
            self._drawn.add(index)
            self._turns[number] += 1
            unseen[number] -= 1
            if not unseen[number]:
                del unseen[number]
        for each, indices in zip(self._sets, waiting, strict=True):
            each.put_back(indices)
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The state on which the draws of the next iteration depend, in plain lists and numbers."""
        order = {"turns": list(self._turns), "epochs": [each.state_dict() for each in self._sets]}
        return {"order": order, "cache": list(self._cache), "mastered": sorted(self._mastered)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._turns = list(state["order"]["turns"])
        for each, saved in zip(self._sets, state["order"]["epochs"], strict=True):
            each.load_state_dict(saved)
        self._cache = list(state["cache"])
        self._mastered = set(state["mastered"])
        self._drawn = set()
