"""What an objective sees, and what it returns.

An objective is a pure function of the token log-probabilities, rewards and positive sets of *whole groups*. It knows
nothing of models, micro-batches or ranks: the caller hands it any subset of an update's groups together with the
update's global counts, and the shares that come back add up to the loss of the update.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ResponseTensors:
    """Whole groups, responses padded on the right to one length.

    Attributes:
        log_probs: `(prompts, K, tokens)`, log pi_theta of each response token; carries the gradient.
        old_log_probs: `(prompts, K, tokens)`, log pi_old of the same tokens; a constant.
        mask: `(prompts, K, tokens)` bool, True on response tokens (EOS included), False on padding.
        rewards: `(prompts, K)`, r(x, y).
        positive: `(prompts, K)` bool, True on the responses in P.
        seeds: For each prompt a seed, for an objective that draws at random: with it a group's loss is the same in any
            micro-batch and on any rank.
        engine_log_probs: `(prompts, K, tokens)`, the rollout engine's own log-probabilities of the tokens it sampled.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    mask: Tensor
    rewards: Tensor
    positive: Tensor
    seeds: tuple[int, ...] = ()
    engine_log_probs: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """`(prompts, K)`, tokens of each response."""
        return self.mask.sum(-1)

    @property
    def log_ratio(self) -> Tensor:
        """`(prompts, K, tokens)`, log pi_theta - log pi_old per token, 0 on padding."""
        return (self.log_probs - self.old_log_probs).masked_fill(~self.mask, 0.0)

    @property
    def sequence_log_ratio(self) -> Tensor:
        """`(prompts, K)`, log pi_theta(y|x) - log pi_old(y|x), summed over the response."""
        return self.log_ratio.sum(-1)


@dataclass(frozen=True)
class Totals:
    """Counts over one whole update, all micro-batches and ranks together: the denominators of its means."""

    prompts: int
    responses: int
    tokens: int
    positives: int

    @property
    def negatives(self) -> int:
        return self.responses - self.positives


class Objective(ABC):
    """A training loss, chosen in YAML by `class_path`."""

    @abstractmethod
    def loss(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        """The share of the update's loss that falls on `responses`: a scalar.

        Shares of a partition of the update's groups add up to the loss of the update, so a mean over prompts divides
        by `totals.prompts` and a mean over tokens by `totals.tokens`, never by a count of `responses`.
        """

    def metrics(self, responses: ResponseTensors, totals: Totals) -> dict[str, Tensor]:
        """Further figures of this objective for the run's log, as shares like the loss's (default: none)."""
        return {}
