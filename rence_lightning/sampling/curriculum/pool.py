"""The pool of training prompts: drawing, skipping, the prompt cache Q, and mastery (Algorithm 1, lines 1, 5-6, 11, 18).

A prompt is represented by its index alone. All decisions are functions of the seed and of the recorded groups, so that
the pools of all ranks are equal.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from rence_lightning.sampling.curriculum.order import Mixture
from rence_lightning.sampling.curriculum.skipping import PromptSkipping


class PromptPool:
    """Draws prompts in a new random order in each epoch, never a mastered one, and none twice in an iteration.

    Args:
        indices: Indices of the prompts, or with `weights` a list of indices for each data set.
        seed: Seed of the order and of the random numbers in skipping.
        skipping: Rule by which prompts are skipped in an epoch; the pool records groups with it and adapts it. Where a
            draw would have too few prompts, those skipped in this iteration are drawn after all. Cached prompts are
            never skipped. None: no prompt is skipped.
        weights: Relative frequency with which each data set is drawn from. Once an iteration has drawn all prompts of a
            set, it draws from the others alone. None: every prompt is drawn once per epoch.

    Raises:
        UserError: The number of weights is not the number of data sets, or a weight is not positive.
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

    @property
    def skipped(self) -> tuple[int, ...]:
        """Prompts that were skipped in this iteration and not drawn after all, in their order."""
        return tuple(index for index in self._passed_over if index not in self._drawn)

    def start_iteration(self) -> None:
        """Starts an iteration, in which every prompt that is not mastered may be drawn again."""
        self._drawn = set()
        self._passed_over = []
        self._iteration += 1

    def draw(self, count: int) -> list[int]:
        """The next `count` prompts to sample: first those of the cache, then those of the order.

        There are fewer or none once all prompts that are not mastered have been drawn in this iteration.
        """
        drawn, self._cache = self._cache[:count], self._cache[count:]
        self._drawn.update(drawn)
        if len(drawn) < count:
            drawn += self._next(count - len(drawn))
            self._drawn.update(drawn)
        return drawn

    def record(self, index: int, correct: Sequence[bool]) -> None:
        """Records with the skipping which of the K responses of a sampled group are correct."""
        if self._skipping is not None:
            self._skipping.record(index, correct)

    def end_iteration(self) -> dict[str, float]:
        """Adapts the skipping to the iteration, and returns for the log the settings that the iteration used."""
        if self._skipping is None:
            return {}
        figures = {"prompts_skipped": float(len(self.skipped)), **self._skipping.figures()}
        self._skipping.end_iteration(self._order.epoch)
        return figures

    def master(self, index: int) -> None:
        """Removes a prompt from the pool for the rest of the run."""
        self._mastered.add(index)

    def cache(self, indices: Sequence[int]) -> None:
        """Puts drawn prompts whose groups were not needed back, in front of all others: they are sampled again, from
        the next policy, at the start of the next iteration."""
        self._cache[:0] = indices

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
            if index in seen:  # a new epoch has begun within this iteration: the prompt waits for the next iteration
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
        """Whether a prompt is skipped. The random number is a function of seed, iteration and prompt, so it is the same
        on every rank and in a resumed run."""
        if self._skipping is None:
            return False
        chance = random.Random(f"skip/{self._seed}/{self._iteration}/{index}").random()
        return self._skipping.skips(index, chance)

    def state_dict(self) -> dict[str, Any]:
        """The state on which the draws of the next iteration depend, in plain lists and numbers."""
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
        if self._skipping is not None and "skipping" in state:  # the checkpoint may be of a run without skipping
            self._iteration = state["skipping"]["iteration"]
            self._skipping.load_state_dict(state["skipping"]["state"])
