"""The pool of training prompts: drawing, the prompt cache Q, and mastery (Algorithm 1, lines 1, 5-6, 11, 18).

A prompt is represented by its index alone. All decisions are functions of the seed and of the recorded groups, so that
the pools of all ranks are equal.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rence_lightning.sampling.curriculum.order import Mixture


class PromptPool:
    """Draws prompts in a new random order in each epoch, never a mastered one, and none twice in an iteration.

    Args:
        indices: Indices of the prompts, or with `weights` a list of indices for each data set.
        seed: Seed of the order.
        weights: Relative frequency with which each data set is drawn from. Once an iteration has drawn all prompts of a
            set, it draws from the others alone. None: every prompt is drawn once per epoch.

    Raises:
        UserError: The number of weights is not the number of data sets, or a weight is not positive.
    """

    def __init__(
        self,
        indices: Iterable[int] | Sequence[Sequence[int]],
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        sets: list[Any] = list(indices)
        self._order = Mixture(sets if weights is not None else [sets], weights, seed)
        self._prompts = sum(len(each.indices) for each in self._order.epochs)
        self._cache: list[int] = []
        self._mastered: set[int] = set()
        self._drawn: set[int] = set()

    @property
    def left(self) -> int:
        """Number of prompts that are not mastered."""
        return self._prompts - len(self._mastered)

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
        sets, gone = self._order.epochs, self._drawn | self._mastered
        unseen = {number: n for number, each in enumerate(sets) if (n := sum(i not in gone for i in each.indices))}
        waiting: list[list[int]] = [[] for _ in sets]
        while len(chosen) < count and unseen:
            number = self._order.whose_turn(unseen)
            index = sets[number].next(without=self._mastered)
            if index in self._drawn:  # a new epoch has begun within this iteration: it waits for the next iteration
                waiting[number].append(index)
                continue
            chosen.append(index)
            self._drawn.add(index)
            self._order.count_turn(number)
            unseen[number] -= 1
            if not unseen[number]:
                del unseen[number]
        for each, indices in zip(sets, waiting, strict=True):
            each.put_back(indices)
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The state on which the draws of the next iteration depend, in plain lists and numbers."""
        return {"order": self._order.state_dict(), "cache": list(self._cache), "mastered": sorted(self._mastered)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state["order"])
        self._cache = list(state["cache"])
        self._mastered = set(state["mastered"])
        self._drawn = set()
