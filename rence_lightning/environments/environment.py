"""What an environment is: the class a configuration names, and the limits of what it is asked."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rence_lightning.errors import UserError
from rence_lightning.parts import Configurable, Problem


class Environment(Configurable, ABC):
    """Replies to the turns of a response; subclass it and name the class as `data.environment`.

    Each response has a shallow copy of the object to itself, so that attributes which `start` sets hold its state. What
    it draws at random must come from the seed that `start` is given.

    Attributes:
        stop: Texts in ASCII that end a turn before the policy ends it, such as the end of a call of a tool. The reply
            follows within the turn.
        role: Role of a reply after a turn that the policy has ended, in the policy's chat template.
        blocks: Whether a reply may take more than a millisecond, so that it is computed in a thread of its own.
    """

    stop: Sequence[str] = ()
    role: Literal["user", "tool"] = "user"
    blocks: bool = True

    def start(self, problem: Problem, seed: int) -> None:
        """Begins a response to a problem, before the first reply. May be an `async def`."""

    @abstractmethod
    def reply(self, turn: str) -> str | None:
        """The reply to a turn, or None to end the response. May be an `async def`.

        Args:
            turn: Text that the policy wrote since the last reply, with its special tokens, up to the token that ends a
                text of `stop`, or to the one that ended the turn. It may be hostile, empty or huge.
        """


@dataclass(frozen=True)
class TurnLimits:
    """Limits of a response of several turns, beside `max_response_tokens`, which counts replies too.

    Args:
        max_turns: Number of turns of the policy after which a response ends.
        max_reply_tokens: Number of tokens after which the text of a reply is cut; `rollouts/replies_cut` counts these.
        reply_seconds: Seconds that a reply may take; then the response ends, as it does when the environment raises an
            error. `rollouts/environment_failures` counts these.
    """

    max_turns: int = 8
    max_reply_tokens: int = 256
    reply_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.max_turns < 1 or self.max_reply_tokens < 1 or self.reply_seconds <= 0:
            raise UserError(
                f"turns: max_turns is {self.max_turns}, max_reply_tokens {self.max_reply_tokens} and reply_seconds "
                f"{self.reply_seconds:g}; they must be >= 1, >= 1 and > 0"
            )
