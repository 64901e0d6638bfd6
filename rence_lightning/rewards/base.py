"""What a reward is: the class a configuration names, and the score of one response."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """The judgement of one response.

    Attributes:
        reward: Reward that the objective sees.
        correct: Whether the final answer is right. Filters and metrics look at this and never at the shaped reward.
        answer: Final answer that was judged, or None when the response gave none.
        parts: Rewards by name, of which a combined reward is the weighted sum; empty for any other reward.
    """

    reward: float
    correct: bool
    answer: str | None
    parts: Mapping[str, float] = field(default_factory=dict)


class Reward(ABC):
    """Scores responses; subclass it and name the class in a configuration to train on another reward.

    It is called on a background thread while the engine samples, one call at a time, and must use neither signal
    handlers nor CUDA.
    """

    @abstractmethod
    def score(self, gold: Sequence[str], responses: Sequence[str]) -> list[Score]:
        """Score a batch.

        Args:
            gold: Reference answer of each response, `(batch,)`.
            responses: Texts that the policy wrote, without the prompt, `(batch,)`. They may be hostile, empty or huge.

        Returns:
            One score per pair, in order. Model output never makes this raise.
        """

    def same(self, answers: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether two final answers are equal, be they right or wrong: for majority votes.

        Args:
            answers: Pairs of `Score.answer`.

        Returns:
            One verdict per pair, in order.
        """
        return [one.strip() == other.strip() for one, other in answers]

    def figures(self) -> dict[str, float]:
        """Counts since the last call, for the log; they are summed over ranks."""
        return {}
