"""What a reward is: the responses it is given, the class a configuration names, and the score of one response."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rence_lightning.parts import Configurable, Problem


@dataclass(frozen=True)
class Response:
    """A sampled response, as rewards and filters see it.

    Attributes:
        problem: Problem that it responds to, with all fields of its row.
        text: Text that the policy wrote, without the prompt and without special tokens. It may be hostile, empty or
            huge.
        token_ids: Token ids of the response, `(tokens,)`, with the end-of-sequence token if there is one, and with
            replies.
        finish_reason: Reason for which the response ended: `stop` with an end-of-sequence token, `length` at the limit.
        prompt_text: Text of the prompt with its special tokens and all that the chat template wrote, such as a
            `<think>` at its end, which the response then lacks.
        raw_text: Text of the response with its special tokens, and with the replies of an environment.
        turns: Text of each turn that the policy wrote; one without an environment.
        replies: Text of each of the environment's replies as the policy reads it, which follow all turns but the last.
    """

    problem: Problem
    text: str
    token_ids: Sequence[int] = ()
    finish_reason: Literal["stop", "length"] = "stop"
    prompt_text: str = ""
    raw_text: str = ""
    turns: Sequence[str] = ()
    replies: Sequence[str] = ()

    @property
    def transcript(self) -> str:
        """The text, with each reply in its place, in brackets of its own: `<<76+4>>⟦80⟧`."""
        if not self.replies:
            return self.text
        return self.turns[0] + "".join(
            f"⟦{reply}⟧{turn}" for reply, turn in zip(self.replies, self.turns[1:], strict=True)
        )

    @property
    def truncated(self) -> bool:
        """Whether the response was cut at the limit."""
        return self.finish_reason == "length"


DECIMALS = 6
"""Number of decimals that a reward is rounded to: 0.7 + 0.2 + 0.1 is 0.9999999999999999, and advantages would magnify
the difference."""


@dataclass(frozen=True)
class Score:
    """The judgement of one response.

    Attributes:
        reward: Reward that the objective sees, in [0, 1], rounded to six decimals.
        correct: Whether the final answer is right. Filters and metrics look at this and never at the shaped reward.
        answer: Final answer that was judged, or None when the response gave none.
        parts: Rewards by name, of which a combined reward is the weighted sum; empty for any other reward.
    """

    reward: float
    correct: bool
    answer: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


class Reward(Configurable, ABC):
    """Scores responses; subclass it and name the class in a configuration to train on another reward.

    It is called on a background thread while the engine samples, one call at a time, and must use neither signal
    handlers nor CUDA. A `score` that is an `async def` is called for all groups that are ready. Where one function of
    one response is enough, `FunctionReward` needs no class.
    """

    @abstractmethod
    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Scores responses. In training, they are the K responses to one problem.

        Args:
            responses: Responses with their problems, `(batch,)`.

        Returns:
            One score per response, in order. Model output never makes this raise.
        """

    @property
    def label(self) -> str:
        """Name in the description of an evaluation; two rewards of equal labels judge alike."""
        return type(self).__name__

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
