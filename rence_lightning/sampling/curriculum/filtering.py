"""The choice of the groups to train on: dynamic prompt filtering (Section 3.2) and mastery.

Mastery and difficulty count *correct* answers, never the shaped reward. By the letter of the paper, a group whose
responses all have the same low reward has rho = |P|/|G| = 1 and would be "mastered" and removed for the rest of the
run, which would empty the pool of the prompts that are not solved yet.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rence_lightning.errors import UserError, call_plugin, invalid_return
from rence_lightning.parts import Configurable, Problem
from rence_lightning.rewards import Response, Score

Positives = Literal["correct", "best"]


class Outcome(StrEnum):
    """The outcome of a sampled group."""

    KEPT = "kept"
    """The group is trained on."""
    TOO_HARD = "too_hard"
    """The share of positives is too low, or nothing distinguishes the failed responses: the group is dropped."""
    TOO_EASY = "too_easy"
    """The share of positives is too high: the group is dropped, and its prompt may be drawn again."""
    MASTERED = "mastered"
    """Nearly all responses are correct: the prompt leaves the pool for the rest of the run."""


@dataclass(frozen=True)
class GradedGroup:
    """The K responses to a problem with their scores, as filters see them."""

    responses: list[Response]
    scores: list[Score]

    @property
    def problem(self) -> Problem:
        """Problem of the group, with all fields of its row."""
        return self.responses[0].problem

    @property
    def size(self) -> int:
        """Number of responses, K."""
        return len(self.responses)

    @property
    def rewards(self) -> list[float]:
        return [score.reward for score in self.scores]

    @property
    def correct(self) -> list[bool]:
        return [score.correct for score in self.scores]


@dataclass(frozen=True)
class FilterDecision:
    """What a filter decides on a group.

    Attributes:
        outcome: Outcome of the group.
        positive: For each of its K responses, whether it is in the positive set P.
        dropped: Whether each of them is left out of training, as truncated responses may be; empty for none. At least
            two must remain in a group that is kept. The log shows those that are left out too.
    """

    outcome: Outcome
    positive: tuple[bool, ...]
    dropped: tuple[bool, ...] = ()


class PromptFilter(Configurable, ABC):
    """Judges graded groups. Chosen in YAML by `class_path`.

    A decision must be a function of the group alone. Each group is judged once, by the process that sampled it, as soon
    as it is graded, so that the order of decisions differs from run to run.
    """

    @abstractmethod
    def judge(self, group: GradedGroup) -> FilterDecision:
        """The outcome of a group, and its positives."""


class PositiveRatioFilter(PromptFilter):
    """Keeps a group if and only if t_hard < rho <= t_easy, Eq. (3), and it has a negative.

    A prompt is mastered if and only if the share of its correct responses exceeds t_master.

    Args:
        t_hard: Lower bound of rho, exclusive, where rho is the share of positive responses in a group.
        t_easy: Upper bound of rho, inclusive.
        t_master: Share of correct responses above which a prompt is mastered and never drawn again; with 1, none is
            mastered.
        positives: Responses in the positive set P: `correct` for the correct ones, so that a group without any is too
            hard; `best` for those of the highest reward where none is correct, so that a format or partial credit can
            be learned first.
    """

    def __init__(
        self, t_hard: float = 0.0, t_easy: float = 0.5, t_master: float = 0.8, positives: Positives = "correct"
    ) -> None:
        if not 0 <= t_hard < t_easy <= 1:
            raise UserError(f"filter: need 0 <= t_hard < t_easy <= 1, got t_hard {t_hard} and t_easy {t_easy}")
        if not t_hard < t_master <= 1:
            raise UserError(f"filter: need t_hard < t_master <= 1, got t_hard {t_hard} and t_master {t_master}")
        self.t_hard, self.t_easy, self.t_master = t_hard, t_easy, t_master
        self.positives: Positives = positives

    def judge(self, group: GradedGroup) -> FilterDecision:
        rewards, correct = group.rewards, group.correct
        positive = tuple(correct)
        if self.positives == "best" and not any(correct):
            positive = tuple(reward == max(rewards) for reward in rewards)
        return FilterDecision(self._outcome(sum(positive), sum(correct), group.size), positive)

    def _outcome(self, positive: int, correct: int, responses: int) -> Outcome:
        rho = positive / responses  # rounded like the literal threshold: 29 of 100 does not exceed 0.29
        if correct / responses > self.t_master:
            return Outcome.MASTERED
        # Where all responses fail with the same reward, there is nothing to contrast.
        if rho <= self.t_hard or (not correct and positive == responses):
            return Outcome.TOO_HARD
        if rho > self.t_easy or positive == responses:
            return Outcome.TOO_EASY
        return Outcome.KEPT


class ZeroVarianceFilter(PositiveRatioFilter):
    """Keeps a group if and only if some but not all responses are correct: dynamic sampling (DAPO, Yu et al. 2025).

    A group that fails in two different ways is still too hard. It is `PositiveRatioFilter` with t_hard 0 and t_easy 1.

    Args:
        t_master: Share of correct responses above which a prompt is mastered and never drawn again; with 1, none is
            mastered.
    """

    def __init__(self, t_master: float = 1.0) -> None:
        super().__init__(t_hard=0.0, t_easy=1.0, t_master=t_master)


class NoFilter(PromptFilter):
    """Keeps every group (GRPO). A group of equal rewards is part of the mean with advantages of zero.

    P consists of the correct responses and may be empty or the whole group, so the objective must not need a contrast.
    """

    def judge(self, group: GradedGroup) -> FilterDecision:
        return FilterDecision(Outcome.KEPT, tuple(group.correct))


JUDGE = "def judge(self, group: GradedGroup) -> FilterDecision"
"""Definition of the method that a filter must have."""


def decision_of(chosen: PromptFilter, group: GradedGroup) -> FilterDecision:
    """The decision of a filter on a group, checked.

    Raises:
        PartError: The filter raised an error or returned something invalid.
    """
    doing = f"judge(), problem {group.problem.id}"
    decision = call_plugin(chosen, doing, lambda: chosen.judge(group))
    if fault := _fault(decision, group.size):
        raise invalid_return(chosen, doing, decision, fault)
    positive, dropped = (tuple(bool(each) for each in flags) for flags in (decision.positive, decision.dropped))
    return FilterDecision(Outcome(decision.outcome), positive, dropped)


def _fault(decision: object, size: int) -> str:
    """What a filter should have returned for a group of `size` responses; empty if the decision is valid."""
    if not isinstance(decision, FilterDecision) or decision.outcome not in Outcome or len(decision.positive) != size:
        return f"a FilterDecision with {size} positives"
    if len(decision.dropped) not in (0, size):
        return f"a FilterDecision with {size} or no values of dropped"
    if any(positive and dropped for positive, dropped in zip(decision.positive, decision.dropped, strict=False)):
        return "a FilterDecision whose positives are not dropped"
    if decision.outcome is Outcome.KEPT and size - sum(decision.dropped) < 2:
        return "a FilterDecision of a kept group that leaves at least 2 responses"
    return ""
