"""The pool of training prompts: drawing, skipping, the prompt cache Q, and mastery (Algorithm 1, lines 1, 5-6, 11, 18).

Prompts are known by their index alone. All decisions are functions of the seed and of what `record`ed verdicts say, so
every rank that keeps a pool of its own keeps the same one.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from rence_lightning.sampling.curriculum.order import Mixture
from rence_lightning.sampling.curriculum.skipping import PromptSkipping


class PromptPool:
    """Draws prompts in a new random order each epoch, never a mastered one, and none twice in an iteration.

    Args:
        indices: The prompts of the pool, or those of several data sets in their order.
        seed: Of the order, and of chance in skipping.
        skipping: Which prompts lose their turn of the epoch unsampled; the pool records into it and adapts it. Where a
            draw would otherwise come up short, what this iteration skipped is drawn after all; the cache is never
            skipped. None: no prompt is skipped.
        weights: How often each data set is drawn from, relative to the others; `indices` then are a list for each.
            Where an iteration has drawn all of one, the others go on. None: every prompt comes once an epoch.

    Raises:
        UserError: The weights do not fit the data sets.
    """

    def __init__(
        self,
        indices: Iterable[int] | Sequence[Sequence[int]],
        seed: int,
        skipping: PromptSkipping | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        sets: list[Any] = list(indices)
        self._order = Mixture(sets if weights is not None else [sets], weights, seed)
        self._seed = seed
        self._prompts = len(self._order.indices)
        self._cache: list[int] = []
        self._mastered: set[int] = set()
        self._drawn: set[int] = set()
        self._skipping = skipping
        self._iteration = 0
        self._passed_over: list[int] = []

    @property
    def left(self) -> int:
        """Prompts not mastered."""
        return self._prompts - len(self._mastered)

    @property
    def mastered(self) -> frozenset[int]:
        return frozenset(self._mastered)

    @property
    def cached(self) -> tuple[int, ...]:
        return tuple(self._cache)

    @property
    def skipped(self) -> tuple[int, ...]:
        """Prompts skipped in this iteration, and not drawn after all, in their order."""
        return tuple(index for index in self._passed_over if index not in self._drawn)

    def start_iteration(self) -> None:
        """Makes every prompt drawable again."""
        self._drawn = set()
        self._passed_over = []
        self._iteration += 1

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

    def record(self, index: int, correct: Sequence[bool]) -> None:
        """Tells the skipping of a sampled group: which of the K responses are correct."""
        if self._skipping is not None:
            self._skipping.record(index, correct)

    def end_iteration(self) -> dict[str, float]:
        """Adapts the skipping to the iteration, and returns the figures by which the iteration skipped, for the log."""
        if self._skipping is None:
            return {}
        figures = {"prompts_skipped": float(len(self.skipped)), **self._skipping.figures()}
        self._skipping.end_iteration(self._order.epoch)
        return figures

    def master(self, index: int) -> None:
        """Removes a prompt from the pool for the rest of the run."""
        self._mastered.add(index)

    def cache(self, indices: Iterable[int]) -> None:
        """Keeps prompts whose groups were left over: they are sampled anew, first thing in the next iteration."""
        self._cache.extend(indices)

    def _next(self, count: int) -> list[int]:
        chosen: list[int] = []
        seen = self._drawn.union(self._passed_over)
        gone = seen | self._mastered
        sets = self._order.epochs
        unseen = {number: n for number, each in enumerate(sets) if (n := sum(i not in gone for i in each.indices))}
        waiting: list[list[int]] = [[] for _ in sets]
        while len(chosen) < count and unseen:
            number = self._order.whose_turn(unseen)
            index = sets[number].next(without=self._mastered)
            if index in seen:  # comes round again before this iteration ends: its turn is the next iteration's
                waiting[number].append(index)
                continue
            (self._passed_over if self._skips(index) else chosen).append(index)
            seen.add(index)
            self._order.count_turn(number)
            unseen[number] -= 1
            if not unseen[number]:
                del unseen[number]
        for each, indices in zip(sets, waiting, strict=True):
            each.put_back(indices)
        return chosen + [index for index in self.skipped if index not in self._mastered][: count - len(chosen)]

    def _skips(self, index: int) -> bool:
        """The chance is a function of seed, iteration and prompt: alike on every rank and in a resumed run."""
        if self._skipping is None:
            return False
        chance = random.Random(f"skip/{self._seed}/{self._iteration}/{index}").random()
        return self._skipping.skips(index, chance)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration's draws depend on, in plain lists and numbers."""
        state: dict[str, Any] = {
            "order": self._order.state_dict(),
            "cache": list(self._cache),
            "mastered": sorted(self._mastered),
        }
        if self._skipping is not None:
            state["skipping"] = {"iteration": self._iteration, "state": self._skipping.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state["order"])
        self._cache = list(state["cache"])
        self._mastered = set(state["mastered"])
        self._drawn = set()
        self._passed_over = []
        if self._skipping is not None and "skipping" in state:  # a run that begins to skip has no past to go by
            self._iteration = state["skipping"]["iteration"]
            self._skipping.load_state_dict(state["skipping"]["state"])
