"""Which prompts are passed over before anything is sampled, because their last groups had nothing to teach.

Skipping counts *correct* answers, as filtering does, never the shaped reward.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from rence_lightning.errors import UserError


class PromptSkipping(ABC):
    """Decides from a prompt's past groups whether it is sampled at all. Chosen in YAML by `class_path`.

    Whatever it decides must follow from its arguments and from what was recorded, so that every rank decides alike.
    """

    @abstractmethod
    def skips(self, index: int, uniform: float) -> bool:
        """Whether the prompt `index` loses its turn; `uniform` is a random number in [0, 1) to decide by."""

    @abstractmethod
    def record(self, index: int, correct: Sequence[bool]) -> None:
        """Takes note of a sampled group: which of the K responses to the prompt `index` are correct."""

    @abstractmethod
    def end_iteration(self, epoch: int) -> None:
        """Adapts to what was recorded since the last call; `epoch`, from 1, is the one that prompts come from."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """What the log should show of the present settings."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that later decisions depend on, between iterations, in plain lists and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state that `state_dict` gave."""


class GRESOSkipping(PromptSkipping):
    """Skips a prompt whose last z groups were uninformative with probability 1 - p^z.

    A group is uninformative when all of its responses are correct (easy) or none is (hard); p is `p_easy` or `p_hard`,
    after the kind of the last group. A prompt whose last group was informative is never skipped. After each iteration
    p_easy falls by a step where the share of easy groups among those sampled has reached its target, else it rises by
    one; p_hard likewise. They rest in the first epoch, where no prompt has a past that could have been acted on.

    Source: Zheng et al. 2025b (GRESO, arXiv 2506.02177). Defaults, bounds, the rest in the first epoch and the least
    chance of being kept are those of the authors' code (github.com/Infini-AI-Lab/GRESO): a quarter of the groups may be
    uninformative, one third of them easy and two thirds hard.

    Args:
        p_easy: Chance of an easy prompt being sampled again, at the start.
        p_hard: Chance of a hard one.
        target_easy: Share of easy groups among those sampled that is aimed at.
        target_hard: Share of hard groups.
        step: By how much p_easy and p_hard move after an iteration.
        p_min: They are never below this.
        p_max: They are never above this.
        min_keep: No prompt is skipped with more than 1 - min_keep, however long it has been uninformative;
            0 is the paper's formula as it stands, by which p^z can vanish.
    """

    def __init__(
        self,
        p_easy: float = 0.5,
        p_hard: float = 0.5,
        target_easy: float = 0.25 / 3,
        target_hard: float = 0.5 / 3,
        step: float = 0.01,
        p_min: float = 0.05,
        p_max: float = 0.95,
        min_keep: float = 0.01,
    ) -> None:
        if not 0 < p_min <= p_max <= 1:
            raise UserError(f"skipping: need 0 < p_min <= p_max <= 1, got p_min {p_min} and p_max {p_max}")
        for name, p in (("p_easy", p_easy), ("p_hard", p_hard)):
            if not p_min <= p <= p_max:
                raise UserError(f"skipping: {name} is {p}, it must be from p_min {p_min} to p_max {p_max}")
        shares = {"target_easy": target_easy, "target_hard": target_hard, "step": step, "min_keep": min_keep}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"skipping: {name} is {share}, it must be from 0 to 1")
        self.p_easy = p_easy
        self.p_hard = p_hard
        self.target_easy = target_easy
        self.target_hard = target_hard
        self.step = step
        self.p_min = p_min
        self.p_max = p_max
        self.min_keep = min_keep
        # Of prompts whose last group was uninformative: how many such groups in a row, and whether the last was easy.
        self._streaks: dict[int, tuple[int, bool]] = {}
        self._start_count()

    def skips(self, index: int, uniform: float) -> bool:
        streak, easy = self._streaks.get(index, (0, False))
        p = self.p_easy if easy else self.p_hard
        return uniform >= max(p**streak, self.min_keep)

    def record(self, index: int, correct: Sequence[bool]) -> None:
        easy, hard = all(correct), not any(correct)
        self._sampled += 1
        self._easy += easy
        self._hard += hard
        if easy or hard:
            self._streaks[index] = (self._streaks.get(index, (0, easy))[0] + 1, easy)
        else:
            self._streaks.pop(index, None)

    def end_iteration(self, epoch: int) -> None:
        if epoch > 1 and self._sampled:
            self.p_easy = self._adapted(self.p_easy, self._easy / self._sampled, self.target_easy)
            self.p_hard = self._adapted(self.p_hard, self._hard / self._sampled, self.target_hard)
        self._start_count()

    def _adapted(self, p: float, share: float, target: float) -> float:
        return max(p - self.step, self.p_min) if share >= target else min(p + self.step, self.p_max)

    def _start_count(self) -> None:
        self._sampled = self._easy = self._hard = 0

    def figures(self) -> dict[str, float]:
        return {"p_easy": self.p_easy, "p_hard": self.p_hard}

    def state_dict(self) -> dict[str, Any]:
        return {
            "p_easy": self.p_easy,
            "p_hard": self.p_hard,
            "streaks": [[index, streak, int(easy)] for index, (streak, easy) in self._streaks.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.p_easy = state["p_easy"]
        self.p_hard = state["p_hard"]
        self._streaks = {index: (streak, bool(easy)) for index, streak, easy in state["streaks"]}
        self._start_count()
