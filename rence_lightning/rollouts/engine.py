"""What a rollout engine is: token ids in, sampled token ids with their log-probabilities out."""

from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from rence_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FinishReason = Literal["stop", "length"]
"""Why a response ended: with an end-of-sequence token, which is part of it, or at the token limit, without one."""


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    Args:
        temperature: Divisor of the logits; 0 takes the most likely token.
        top_p: Probability mass of the smallest set of tokens from which each token is drawn; 1 draws from all tokens.
        max_response_tokens: Number of tokens after which a response is cut.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_response_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.temperature != 0 and not 1e-6 <= self.temperature <= 1e6:  # NaN too; float32 has no logits / 1e-40
            raise UserError(f"sampling: temperature is {self.temperature}, it must be 0, or from 1e-6 to 1e6")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling: top_p is {self.top_p}, it must be in (0, 1]")
        if self.max_response_tokens < 1:
            raise UserError(f"sampling: max_response_tokens is {self.max_response_tokens}, it must be >= 1")


@dataclass(frozen=True)
class Rollout:
    """One sampled response, in arrays, which take a ninth of the memory of lists.

    Attributes:
        token_ids: Token ids of the response as `array("i")`, including the end-of-sequence token if there is one.
        log_probs: Log-probability of each token that the policy chose as `array("f")`, in nats, at the sampling
            temperature and before top-p truncation. Tokens of replies have none.
        finish_reason: Reason for which the response ended.
        replies: First and last place, counted from 0, of each run of tokens that an environment wrote.
    """

    token_ids: "array[int]"
    log_probs: "array[float]"
    finish_reason: FinishReason
    replies: tuple[tuple[int, int], ...] = ()

    @property
    def chosen_tokens(self) -> int:
        """Number of tokens that the policy chose."""
        return len(self.token_ids) - sum(last + 1 - first for first, last in self.replies)


Replies = Callable[[int, "array[int]"], "Future[Sequence[int] | None]"]
"""The token ids of the reply to a response, given its number in the group and its tokens so far, of which the last ends
a turn. No ids: the turn goes on. None: the response has ended."""


@dataclass(frozen=True)
class Request:
    """One prompt to which responses are sampled.

    Up to rounding, the responses are a function of these fields and of the policy, whatever else is sampled.

    Attributes:
        prompt: Token ids of the prompt.
        group_size: Number of responses, K.
        sampling: Temperature, top-p and length limit.
        seed: Seed of the responses.
        stop_ids: Tokens at which a turn ends, besides those that end a sequence.
        replies: Function that replies to each turn; None where a response is one turn. An engine with the attribute
            `takes_turns` gets it; any other gets each turn as a request of its own (`rence_lightning.rollouts.turns`).
    """

    prompt: Sequence[int]
    group_size: int
    sampling: Sampling
    seed: int
    stop_ids: frozenset[int] = frozenset()
    replies: Replies | None = None


@dataclass(frozen=True)
class FinishedGroup:
    """The K responses to the request of a number, counted from 0 in the order in which the engine took the requests."""

    index: int
    rollouts: list[Rollout]


@dataclass(frozen=True)
class SamplingStep:
    """What an engine has sampled since its last step: how many responses have ended, how many tokens were sampled, and
    the groups of which all responses have ended, in any order."""

    responses: int
    tokens: int
    finished: list[FinishedGroup] = field(default_factory=list)


class SampledPolicy(Protocol):
    """What an engine reads of a policy, as in `rence_lightning.policy.Policy`."""

    @property
    def model(self) -> "PreTrainedModel":
        """The causal language model, whose parameters may be sharded over the ranks."""
        ...

    @property
    def compute_device(self) -> torch.device:
        """Device of the forward passes, which is not that of the parameters where these are offloaded."""
        ...

    def weights(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """The weights whole, one at a time, as in `Policy.weights`. If they are sharded, every rank must take all."""
        ...


class RolloutEngine(Protocol):
    """Samples groups of responses from the current policy. Chosen in YAML by `class_path`.

    An engine may also have a method `check(self) -> None`, which is called once, after a `sync` and before any data is
    loaded, and raises `UserError` if it cannot sample from the policy; a method `close(self) -> None`, which is called
    when a run has succeeded, before the process groups end; and a method `figures(self) -> dict[str, float]`, like
    `Reward.figures`, whose values are summed over ranks and logged with an iteration.
    """

    def sync(self, policy: SampledPolicy) -> None:
        """Takes over the weights of `policy`; called before each iteration."""

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        """Samples the responses to the requests, as a stream.

        The engine takes the next request, in order, as soon as it has room for it (see `Intake`). The caller works
        between two steps (it reports progress, grades, cancels), so a step should take well below a second. Closing the
        iterator ends all sampling; the engine is then ready for more.

        Args:
            requests: Prompts with the number, the sampling and the seed of their responses.
            cancelled: Numbers of requests that are no longer needed, to which the caller adds between two steps: they
                are passed over or no longer sampled. A cancelled group may be reported or not.

        Yields:
            What was sampled since the last step. Each request that is not cancelled is finished exactly once.
        """
        ...

    def release(self) -> None:
        """Frees the memory that training needs. `sync` is called before the next `generate`."""


def end_of_sequence_ids(model: "PreTrainedModel") -> list[int]:
    """The tokens that end a response: those of the generation config, else those of the model config."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if (ids := model.config.eos_token_id if ids is None else ids) is None:
        raise UserError("policy: neither generation_config.json nor config.json names an eos_token_id; add one")
    return list(ids) if isinstance(ids, list | tuple) else [ids]
