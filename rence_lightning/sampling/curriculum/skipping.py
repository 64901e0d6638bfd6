"""Skipping of prompts before anything is sampled, because their last groups were uninformative.

Skipping counts *correct* answers, as filtering does, never the shaped reward.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from rence_lightning.configurable import Configurable
from rence_lightning.errors import UserError


class PromptSkipping(Configurable, ABC):
    """Decides from the past groups of a prompt whether it is sampled. Chosen in YAML by `class_path`.

    A decision must be a function of its arguments and of what was recorded, so that all ranks decide alike.
    """

    @abstractmethod
    def skips(self, index: int, uniform: float) -> bool:
        """Whether the prompt `index` is skipped. `uniform` is the random number in [0, 1) for this decision."""

    @abstractmethod
    def record(self, index: int, correct: Sequence[bool]) -> None:
        """Records a sampled group: which of the K responses to the prompt `index` are correct."""

    @abstractmethod
    def end_iteration(self, epoch: int) -> None:
        """Adapts to what was recorded since the last call. `epoch`, from 1, is the current epoch of the prompts."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """The current settings, for the log."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state between iterations on which later decisions depend, in plain lists and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""


class GRESOSkipping(PromptSkipping):
    """Skips a prompt whose last z groups were uninformative with probability 1 - p^z.

    A group is uninformative if all of its responses are correct (easy) or none is (hard); p is `p_easy` or `p_hard`
    depending on the last group. A prompt whose last group was informative is never skipped. After each iteration p_easy
    decreases by a step if the share of easy groups among the sampled ones has reached its target, else it increases by
    a step; the same holds for p_hard. They do not change in the first epoch, in which no prompt has a recorded group.

    Source: Zheng et al. 2025b (GRESO, arXiv 2506.02177). The defaults, the bounds, the constant first epoch and the
    smallest probability of keeping a prompt are those of the authors' code (github.com/Infini-AI-Lab/GRESO): a quarter
    of the groups may be uninformative, one third of them easy and two thirds hard.

    Args:
        p_easy: Initial probability of sampling a prompt again after one easy group.
        p_hard: Initial probability of sampling a prompt again after one hard group.
        target_easy: Target share of easy groups among the sampled groups.
        target_hard: Target share of hard groups among the sampled groups.
        step: Change of p_easy and p_hard after an iteration.
        p_min: Lower bound of p_easy and p_hard.
        p_max: Upper bound of p_easy and p_hard.
        min_keep: Lower bound of the probability that a prompt is sampled, however long it has been uninformative; with
            0 it is p^z as in the paper, which can vanish.
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
        # For each prompt whose last group was uninformative: the number of such groups in a row, whether it was easy.
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
