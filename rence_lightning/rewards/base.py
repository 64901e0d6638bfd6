"""What a reward is: the class a configuration names, and the score of one response."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """The judgement of one response.

    Attributes:
        reward: What the objective sees.
        correct: Whether the final answer is right. Filters and metrics look at this, never at the shaped reward.
        answer: The final answer that was judged, or None when the response gave none.
        parts: What a reward made of several sums up, by name.
    """

    reward: float
    correct: bool
    answer: str | None
    parts: Mapping[str, float] = field(default_factory=dict)


class Reward(ABC):
    """Scores responses; subclass it and name the class in a configuration to train on another reward.

    It is called on a thread beside the one that samples, one call at a time: no signal handlers, no CUDA.
    """

    @abstractmethod
    def score(self, gold: Sequence[str], responses: Sequence[str]) -> list[Score]:
        """Score a batch.

        Args:
            gold: The reference answer of each response, `(batch,)`.
            responses: What the policy wrote, without the prompt, `(batch,)`. Any string at all: hostile, empty, huge.

        Returns:
            One score per pair, in order. Model output never makes this raise.
        """

    def same(self, answers: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether two final answers, none of which need be right, say the same: for majority votes.

        Args:
            answers: Pairs of `Score.answer`.
        """
        return [one.strip() == other.strip() for one, other in answers]

    def figures(self) -> dict[str, float]:
        """Counts since the last call, for the log; they are summed over ranks."""
        return {}
