"""Which groups are trained on: dynamic prompt filtering (Section 3.2) and mastery.

Mastery and difficulty count *correct* answers, never the shaped reward. Taken literally, a group whose responses all
fail alike has rho = |P|/|G| = 1 and would be "mastered" and removed for ever; that empties the pool of the very prompts
that are unsolved.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rence_lightning.errors import UserError

Positives = Literal["correct", "best"]


class Outcome(StrEnum):
    """What becomes of a sampled group."""

    KEPT = "kept"
    """The group is trained on."""
    CACHED = "cached"
    """The group passed the filter when the batch was full: its prompt is sampled again in the next iteration."""
    TOO_HARD = "too_hard"
    TOO_EASY = "too_easy"
    MASTERED = "mastered"
    """Too easy for good: the prompt leaves the pool for the rest of the run."""


@dataclass(frozen=True)
class Judgement:
    """The outcome of a group, and its positive set P: `(K,)` bool."""

    outcome: Outcome
    positive: tuple[bool, ...]


class PromptFilter(ABC):
    """Judges a group by its rewards. Chosen in YAML by `class_path`."""

    @abstractmethod
    def judge(self, rewards: Sequence[float], correct: Sequence[bool]) -> Judgement:
        """The outcome of a group (never `cached`), from the reward and the correctness of each of its K responses."""


class PositiveRatioFilter(PromptFilter):
    """Keeps a group iff t_hard < rho <= t_easy, Eq. (3), and it has a negative.

    A prompt is mastered iff more than t_master of its responses are correct.

    Args:
        t_hard: Lower bound of rho, exclusive.
        t_easy: Upper bound of rho, inclusive.
        t_master: A prompt is mastered, and never drawn again, when its share of correct responses exceeds this; 1 never
            removes a prompt.
        positives: `correct`: P is the correct responses, and a group without one is too hard. `best`: where no response
            is correct, P is the responses of the highest reward (so that a format reward can teach the format).
    """

    def __init__(
        self, t_hard: float = 0.0, t_easy: float = 0.5, t_master: float = 0.8, positives: Positives = "correct"
    ) -> None:
        if not 0 <= t_hard < t_easy <= 1:
            raise UserError(f"filter: need 0 <= t_hard < t_easy <= 1, got t_hard {t_hard} and t_easy {t_easy}")
        if not t_hard < t_master <= 1:
            raise UserError(f"filter: need t_hard < t_master <= 1, got t_hard {t_hard} and t_master {t_master}")
        self.t_hard = t_hard
        self.t_easy = t_easy
        self.t_master = t_master
        self.positives: Positives = positives

    def judge(self, rewards: Sequence[float], correct: Sequence[bool]) -> Judgement:
        positive = tuple(correct)
        if self.positives == "best" and not any(correct):
            positive = tuple(reward == max(rewards) for reward in rewards)
        return Judgement(self._outcome(sum(positive), sum(correct), len(rewards)), positive)

    def _outcome(self, positive: int, correct: int, responses: int) -> Outcome:
        rho = positive / responses  # a quotient rounds to the decimal it equals: 29 of 100 is not above 0.29
        if correct / responses > self.t_master:
            return Outcome.MASTERED
        if not correct and positive == responses:
            return Outcome.TOO_HARD  # all fail alike: nothing to contrast
        if rho <= self.t_hard:
            return Outcome.TOO_HARD
        if rho > self.t_easy or positive == responses:
            return Outcome.TOO_EASY
        return Outcome.KEPT


class ZeroVarianceFilter(PromptFilter):
    """Keeps a group iff some but not all of its responses are correct: dynamic sampling (DAPO, Yu et al. 2025).

    Zero variance is that of correctness, so a group that fails in two different ways is still too hard. P is the
    correct responses. It is `PositiveRatioFilter` with t_hard = 0 and t_easy = 1.

    Args:
        t_master: As for `PositiveRatioFilter`, so below 1 it also takes out groups of which nearly all are correct; 1
            never removes a prompt.
    """

    def __init__(self, t_master: float = 1.0) -> None:
        if not 0 < t_master <= 1:
            raise UserError(f"filter: need 0 < t_master <= 1, got t_master {t_master}")
        self.t_master = t_master
        self._ratio = PositiveRatioFilter(t_hard=0.0, t_easy=1.0, t_master=t_master)

    def judge(self, rewards: Sequence[float], correct: Sequence[bool]) -> Judgement:
        return self._ratio.judge(rewards, correct)


class NoFilter(PromptFilter):
    """Keeps every group (GRPO): one of equal rewards takes part in the mean, with advantages of zero.

    P is the correct responses, and may be empty or all of them: for objectives that need no contrast.
    """

    def judge(self, rewards: Sequence[float], correct: Sequence[bool]) -> Judgement:
        return Judgement(Outcome.KEPT, tuple(correct))
