"""A group: a prompt with its K sampled, graded responses. Training and evaluation sample groups in the same way."""

from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, NoReturn

import torch
from torch import Tensor

from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Response, Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling.curriculum.filtering import GradedGroup, Outcome, PromptFilter, decision_of


class RemoteArray:
    """Stands for an array of this length that another rank holds."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, _: object) -> NoReturn:
        raise RuntimeError("the tokens of this group are on the rank that trains on it; here, only their number is")


@dataclass
class Group:
    """A prompt and its K responses.

    During the updates, a rank holds the tokens of the groups that it trains on; of the others it knows lengths, rewards
    and positives (`drop_tokens`), because an iteration samples gigabytes of tokens.

    Attributes:
        prompt: Prompt x.
        rollouts: Responses y_1 .. y_K as token ids, with log-probabilities and finish reasons.
        responses: Texts of the responses, without special tokens; empty texts once they are dropped.
        scores: Rewards and verdicts of the responses.
        temperature: Sampling temperature of the responses.
        seed: Seed of an objective that draws at random; independent of the seed that the responses were sampled with.
        positive: Whether each of the responses is in P; set by the prompt filter.
        dropped: Whether each of the responses is left out of training, set by the prompt filter; empty for none.
        outcome: Decision of the prompt filter on the group; None before.
        old_log_probs: Log-probabilities of the tokens under pi_old, a `(tokens,)` float32 tensor for each response; set
            before the first update, on the rank that trains on the group.
    """

    prompt: Prompt
    rollouts: list[Rollout]
    responses: list[str]
    scores: list[Score]
    temperature: float
    seed: int = 0
    positive: tuple[bool, ...] = ()
    dropped: tuple[bool, ...] = ()
    outcome: Outcome | None = None
    old_log_probs: list[Tensor] = field(default_factory=list)

    @property
    def rewards(self) -> list[float]:
        return [score.reward for score in self.scores]

    @property
    def correct(self) -> list[bool]:
        return [score.correct for score in self.scores]

    @property
    def size(self) -> int:
        """Number of responses, K."""
        return len(self.rollouts)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens that the policy chose in each response."""
        return [len(rollout.log_probs) for rollout in self.rollouts]

    @property
    def shape(self) -> tuple[int, list[int]]:
        """Number of tokens of the prompt, and of each response with its replies."""
        return len(self.prompt.token_ids), [len(rollout.token_ids) for rollout in self.rollouts]

    @property
    def has_tokens(self) -> bool:
        """Whether this rank holds the tokens."""
        return not any(isinstance(rollout.token_ids, RemoteArray) for rollout in self.rollouts)

    def judge(self, chosen: PromptFilter, responses: list[Response]) -> None:
        """Sets outcome, positives and dropped responses as a prompt filter decides, which sees these responses.

        Raises:
            PartError: The filter raised an error or returned something invalid.
        """
        decision = decision_of(chosen, GradedGroup(responses, self.scores))
        self.outcome, self.positive, self.dropped = decision.outcome, decision.positive, decision.dropped

    def leave_out_dropped(self) -> None:
        """Removes the responses that are left out of training, after the log has them."""
        if any(self.dropped):
            trained = [not each for each in self.dropped]
            for name in ("rollouts", "responses", "scores", "old_log_probs"):
                setattr(self, name, list(compress(getattr(self, name), trained)))
            self.positive = tuple(compress(self.positive, trained))
        self.dropped = ()

    def drop_tokens(self) -> None:
        """Frees the tokens and texts of a group that another rank trains on."""
        lengths: list[Any] = [RemoteArray(length) for length in self.lengths]
        tokens: list[Any] = [RemoteArray(len(rollout.token_ids)) for rollout in self.rollouts]
        self.rollouts = [
            replace(rollout, token_ids=every, log_probs=chosen)
            for rollout, every, chosen in zip(self.rollouts, tokens, lengths, strict=True)
        ]
        self.responses = [""] * len(self.responses)
        self.old_log_probs = lengths if self.old_log_probs else []


def engine_log_probs(rollout: Rollout) -> Tensor:
    """The engine's own log-probabilities of the tokens that the policy chose, `(tokens,)` float32."""
    return torch.frombuffer(rollout.log_probs, dtype=torch.float32).clone()
