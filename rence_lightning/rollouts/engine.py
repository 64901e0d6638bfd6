"""What a rollout engine is: token ids in, sampled token ids with their log-probabilities out."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rence_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FinishReason = Literal["stop", "length"]
"""`stop`: the response ends with an end-of-sequence token. `length`: it was cut at the token limit and has none."""

EngineProgress = Callable[[int, int], None]
"""Called now and then with (responses finished, tokens sampled) since the last call."""

GroupFinished = Callable[[int, "list[Rollout]"], None]
"""Called once a prompt, in any order, with its index and all of its rollouts, while others are still being sampled."""


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    Args:
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Nucleus sampling: the smallest set of tokens with this much probability; 1 samples from all.
        max_response_tokens: A response is cut after this many tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_response_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"sampling: temperature is {self.temperature}, it must be >= 0")
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling: top_p is {self.top_p}, it must be in (0, 1]")
        if self.max_response_tokens < 1:
            raise UserError(f"sampling: max_response_tokens is {self.max_response_tokens}, it must be >= 1")


@dataclass(frozen=True)
class Rollout:
    """One sampled response.

    An iteration samples tens of millions of tokens, and every process holds them all: arrays of four bytes an element
    take a ninth of what lists take.

    Attributes:
        token_ids: `array("i")`, the response's tokens, the end-of-sequence token included when there is one.
        log_probs: `array("f")`, for each token, in nats, its log-probability at the sampling temperature (before top-p
            truncation).
        finish_reason: Why it ended.
    """

    token_ids: "array[int]"
    log_probs: "array[float]"
    finish_reason: FinishReason


def gathered(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The whole of a parameter, on this rank; where it is sharded, every rank takes part.

    Moved and cast before the gather: an offloaded shard travels between GPUs, and in bfloat16 half the bytes do.
    """
    parameter = parameter.detach().to(device=device, dtype=dtype)
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


class RolloutEngine(Protocol):
    """Samples groups of responses from the current policy. Chosen in YAML by `class_path`."""

    def sync(self, policy: "object") -> None:
        """Takes over the weights of `policy` (a `rence_lightning.policy.Policy`): called before each iteration."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[int],
        progress: EngineProgress | None = None,
        finished: GroupFinished | None = None,
    ) -> list[list[Rollout]]:
        """Samples `group_size` responses to each prompt.

        Args:
            prompts: Token ids of each prompt.
            group_size: K.
            sampling: Temperature, top-p and length limit.
            seeds: One a prompt. The responses to a prompt are a function of its tokens, its seed and the policy,
                (up to rounding) whatever else is in the batch.
            progress: Told of finished responses and sampled tokens.
            finished: Given each prompt's rollouts as soon as they are there, so that grading need not wait.

        Returns:
            For each prompt, in order, its `group_size` rollouts.
        """
        ...

    def release(self) -> None:
        """Gives back memory that training needs; `sync` follows before the next `generate`."""


def end_of_sequence_ids(model: "PreTrainedModel") -> list[int]:
    """The tokens that end a response: the generation config's, else the model config's."""
    generation = getattr(model, "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    if ids is None:
        ids = model.config.eos_token_id
    if ids is None:
        raise UserError("policy: neither generation_config.json nor config.json names an eos_token_id; add one")
    return list(ids) if isinstance(ids, list | tuple) else [ids]
