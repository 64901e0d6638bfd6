"""The input and the output of an objective.

An objective is a pure function of the token log-probabilities, rewards and positive sets of *whole groups*. The caller
passes any subset of an update's groups together with the global counts of the update, and the parts that are returned
add up to the loss of the update.

Shapes in this room, also as suffixes of names: G groups, one for each prompt; K responses of a group; T tokens of the
longest response. `scores_GK` has a score for each response.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from rence_lightning.parts import Configurable

LOG_RATIO_LIMIT = 20.0
"""Largest log-ratio of which exp() is taken: beyond it the sums overflow. It guards against overflow alone. A policy
that comes near it is far from pi_old already, and is restrained by the clipping of the gradient's norm. There is no
lower limit, so that a token whose probability has collapsed is pulled back by the KL penalty."""


@dataclass(frozen=True)
class ResponseTensors:
    """Whole groups, with the responses padded on the right to one length.

    Attributes:
        log_probs: Log-probabilities log pi_theta of the response tokens, `(G, K, T)`, with their gradient.
        old_log_probs: Log-probabilities log pi_old of the same tokens, `(G, K, T)`, without a gradient.
        mask: Mask `(G, K, T)` of bool, True on response tokens (EOS included), False on padding.
        rewards: Rewards r(x, y) of the responses, `(G, K)`.
        positive: Mask `(G, K)` of bool, True on the responses in P.
        seeds: Seed of each prompt, for an objective that draws random numbers. With it, the loss of a group is the same
            in any micro-batch and on any rank.
        engine_log_probs: Log-probabilities of the same tokens by the rollout engine, `(G, K, T)`.
        reference_log_probs: Log-probabilities log pi_ref of the same tokens, `(G, K, T)`, in a run with a
            reference policy.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    mask: Tensor
    rewards: Tensor
    positive: Tensor
    seeds: tuple[int, ...] = ()
    engine_log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each response, `(G, K)`."""
        return self.mask.sum(-1)

    @property
    def log_ratio(self) -> Tensor:
        """Log-ratio log pi_theta - log pi_old of each token, `(G, K, T)`, 0 on padding."""
        return (self.log_probs - self.old_log_probs).masked_fill(~self.mask, 0.0)

    @property
    def sequence_log_ratio(self) -> Tensor:
        """Log-ratio log pi_theta(y|x) - log pi_old(y|x) of each response, `(G, K)`, summed over its tokens."""
        return self.log_ratio.sum(-1)


@dataclass(frozen=True)
class Totals:
    """Sums over a whole update, on all ranks and in all micro-batches: the denominators of its means, and its KL.

    Attributes:
        prompts: Number of prompts.
        responses: Number of responses.
        tokens: Number of response tokens.
        positives: Number of responses in P.
        kl: KL divergence of the update before its gradient passes, where the trust region has a `delta`; else 0.
    """

    prompts: int
    responses: int
    tokens: int
    positives: int
    kl: float = 0.0

    @property
    def negatives(self) -> int:
        """Number of responses in N."""
        return self.responses - self.positives


class Objective(Configurable, ABC):
    """A training loss, chosen in YAML by `class_path`."""

    couples_responses: bool = True
    """Whether the loss of one response depends on the log-probabilities of the others in its group. Where it does not,
    as in policy gradients, a group that exceeds the token budget is cut without being scored first."""

    @abstractmethod
    def loss(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        """The part of the update's loss that comes from `responses`: a scalar. Parts add up: a mean over prompts
        divides by `totals.prompts` and one over tokens by `totals.tokens`, never by a count of `responses`."""

    def metrics(self, responses: ResponseTensors, totals: Totals) -> dict[str, Tensor]:
        """Further figures for the log of the run, as parts that add up like those of the loss (default: none)."""
        return {}


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of each group's values `(G, K)` over the responses that are chosen `(G, K)`, `(G,)`; 0 where none is."""
    return values.masked_fill(~chosen, 0.0).sum(-1) / chosen.sum(-1).clamp(min=1)
