"""Policy gradients with group-relative advantages: GRPO and its refinements DAPO, GSPO, Dr. GRPO and MaxRL.

All minimise the clipped surrogate of PPO, -min(w A, clip(w, 1 - clip_low, 1 + clip_high) A) with w = pi_theta / pi_old
and an advantage A that is constant over a response. They differ in the advantage, the ratio and the mean:

             advantage                          ratio w         mean over
    GRPO     (r - mean) / std                   of the token    tokens of a response, then responses
    DAPO     (r + overlong - mean) / std        of the token    tokens of the update
    GSPO     (r - mean) / std                   of the response responses
    DrGRPO   r - mean                           of the token    tokens, over responses * a constant length
    MaxRL    (correct - share) / share          of the token    tokens of the update

None has a KL penalty here: `model.trust_region` adds one to pi_old, and `model.reference` one to a reference policy, as
in the first GRPO.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import LOG_RATIO_LIMIT, Objective, ResponseTensors, Totals
from rence_lightning.objectives.importance import check_cap, token_weights

STD_EPSILON = 1e-6
"""Summand that is added to the standard deviation of a group, as in verl (TRL: 1e-4)."""


def group_advantage(rewards: Tensor, standardise: bool = True) -> Tensor:
    """The advantages `(G, K)`: r minus the mean of the group, divided by its standard deviation.

    The standard deviation is that of a sample (K - 1), plus `STD_EPSILON`. Where all rewards are equal, the advantages
    are 0.
    """
    rewards = rewards - rewards.amax(-1, keepdim=True)  # equal rewards become zeros, whose mean has no rounding error
    advantage = rewards - rewards.mean(-1, keepdim=True)
    return advantage / (rewards.std(-1, keepdim=True) + STD_EPSILON) if standardise else advantage


def overlong_penalty(lengths: Tensor, max_response_tokens: int, buffer: int) -> Tensor:
    """The soft overlong punishment of DAPO, which is added to the reward, in the shape of `lengths` in tokens.

    It is 0 up to max - buffer tokens, and then falls linearly to -1 at max.
    """
    return (-(lengths.double() - (max_response_tokens - buffer)) / buffer).clamp(-1.0, 0.0)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """-min(w A, clip(w, 1 - clip_low, 1 + clip_high) A), in the shape of `log_ratio` = log w.

    With a positive advantage, clipping ends the gradient long before `LOG_RATIO_LIMIT`. With a negative one, a response
    beyond the limit keeps its loss and loses its gradient.
    """
    ratio = log_ratio.clamp(max=LOG_RATIO_LIMIT).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)


class PolicyGradient(Objective):
    """The base class of the family, with the advantage and the ratio of GRPO.

    Args:
        clip_low: Lower clipping range: with a negative advantage, the gradient is 0 where w < 1 - clip_low.
        clip_high: Upper clipping range: with a positive advantage, the gradient is 0 where w > 1 + clip_high.
        tis_cap: Largest importance weight pi_old / pi_engine of a token; null for no weights.
    """

    couples_responses = False

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2, tis_cap: float | None = None) -> None:
        if not 0 < clip_low <= 1 or clip_high <= 0:
            raise UserError(f"objective: need 0 < clip_low <= 1 and clip_high > 0, got {clip_low} and {clip_high}")
        self.clip_low, self.clip_high, self.tis_cap = clip_low, clip_high, check_cap(tis_cap)

    def advantage(self, responses: ResponseTensors) -> Tensor:
        """The advantages A, `(G, K)`."""
        return group_advantage(responses.rewards)

    def log_ratio(self, responses: ResponseTensors) -> Tensor:
        """The log-ratio log w of each token, `(G, K, T)`, 0 on padding."""
        return responses.log_ratio

    @abstractmethod
    def mean(self, values: Tensor, responses: ResponseTensors, totals: Totals) -> Tensor:
        """The part of the update's mean that comes from the values `(G, K, T)`, 0 on padding, of `responses`."""

    def loss(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        advantage = self.advantage(responses).unsqueeze(-1)
        losses = clipped_surrogate(self.log_ratio(responses), advantage, self.clip_low, self.clip_high)
        if self.tis_cap is not None:
            losses = losses * token_weights(responses, self.tis_cap)
        return self.mean(losses.masked_fill(~responses.mask, 0.0), responses, totals)

    def metrics(self, responses: ResponseTensors, totals: Totals) -> dict[str, Tensor]:
        """`clip_share`: the share of the update's response tokens that are clipped and have no gradient."""
        advantage, log_ratio = self.advantage(responses).unsqueeze(-1), self.log_ratio(responses)
        ratio = log_ratio.exp()
        clipped = (advantage > 0) & (ratio > 1 + self.clip_high) | (advantage < 0) & (ratio < 1 - self.clip_low)
        return {"clip_share": (clipped & responses.mask).sum() / totals.tokens}


class GRPO(PolicyGradient):
    """Group relative policy optimisation (Shao et al. 2024); `model.reference` has its reference policy."""

    def mean(self, values: Tensor, responses: ResponseTensors, totals: Totals) -> Tensor:
        return (values.sum(-1) / responses.lengths.clamp(min=1)).sum() / totals.responses


class DAPO(PolicyGradient):
    """DAPO (Yu et al. 2025): asymmetric clipping, token-level mean, overlong penalty.

    Its fourth part, dynamic sampling, is `rence_lightning.sampling.ZeroVarianceFilter`. Filters judge correctness. The
    overlong penalty is applied here, where it cannot make a group look informative to a filter.

    Args:
        clip_low: Lower clipping range: with a negative advantage, the gradient is 0 where w < 1 - clip_low.
        clip_high: Upper clipping range, larger than `clip_low`, so that rare tokens of good responses can grow more.
        tis_cap: Largest importance weight pi_old / pi_engine of a token; null for no weights.
        overlong_buffer: Number of tokens before `max_response_tokens` over which the penalty grows to -1; null for no
            penalty.
        max_response_tokens: Largest number of tokens of a response, `data.sampling.max_response_tokens`.
    """

    def __init__(
        self,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        tis_cap: float | None = None,
        overlong_buffer: int | None = None,
        max_response_tokens: int | None = None,
    ) -> None:
        super().__init__(clip_low, clip_high, tis_cap)
        if overlong_buffer is not None and not 0 < overlong_buffer <= (max_response_tokens or 0):
            raise UserError(
                f"objective: overlong_buffer is {overlong_buffer}; need 0 < overlong_buffer <= max_response_tokens "
                f"({max_response_tokens}; set it to data.sampling.max_response_tokens)"
            )
        self.overlong_buffer, self.max_response_tokens = overlong_buffer, max_response_tokens

    def advantage(self, responses: ResponseTensors) -> Tensor:
        rewards = responses.rewards
        if self.overlong_buffer is not None and self.max_response_tokens is not None:
            penalty = overlong_penalty(responses.lengths, self.max_response_tokens, self.overlong_buffer)
            rewards = rewards + penalty.to(rewards.dtype)
        return group_advantage(rewards)

    def mean(self, values: Tensor, responses: ResponseTensors, totals: Totals) -> Tensor:
        return values.sum() / totals.tokens


class GSPO(GRPO):
    """Group sequence policy optimisation (Zheng et al. 2025a), with the length-normalised ratio of a whole response.

    Args:
        clip_low: Lower clipping range of the ratio of a response, which changes far less than that of a token.
        clip_high: Upper clipping range of the ratio of a response.
        tis_cap: Largest importance weight pi_old / pi_engine of a token; null for no weights.
    """

    def __init__(self, clip_low: float = 3e-4, clip_high: float = 4e-4, tis_cap: float | None = None) -> None:
        super().__init__(clip_low, clip_high, tis_cap)

    def log_ratio(self, responses: ResponseTensors) -> Tensor:
        sequence = responses.sequence_log_ratio / responses.lengths.clamp(min=1)
        return sequence.unsqueeze(-1) * responses.mask


class DrGRPO(PolicyGradient):
    """Dr. GRPO (Liu et al. 2025), without division by the standard deviation or by the length of the response.

    Args:
        max_response_tokens: Constant that replaces the length of a response, `data.sampling.max_response_tokens`.
        clip_low: Lower clipping range: with a negative advantage, the gradient is 0 where w < 1 - clip_low.
        clip_high: Upper clipping range: with a positive advantage, the gradient is 0 where w > 1 + clip_high.
        tis_cap: Largest importance weight pi_old / pi_engine of a token; null for no weights.
    """

    def __init__(
        self, max_response_tokens: int, clip_low: float = 0.2, clip_high: float = 0.2, tis_cap: float | None = None
    ) -> None:
        super().__init__(clip_low, clip_high, tis_cap)
        if max_response_tokens < 1:
            raise UserError(f"objective: max_response_tokens is {max_response_tokens}; it must be >= 1")
        self.max_response_tokens = max_response_tokens

    def advantage(self, responses: ResponseTensors) -> Tensor:
        return group_advantage(responses.rewards, standardise=False)

    def mean(self, values: Tensor, responses: ResponseTensors, totals: Totals) -> Tensor:
        return values.sum() / (totals.responses * self.max_response_tokens)


class MaxRL(PolicyGradient):
    """Maximum likelihood reinforcement learning (Tajwar et al. 2026), the estimator of Section 3.3 and Algorithm 1.

    With r = 1 on P and 0 on N, and their mean mu over the group, the advantage is (r - mu) / mu, and 0 where P is
    empty. On samples of the policy itself, the mean over responses of (r - mu) / mu times the gradient of log pi is an
    unbiased estimate of the gradient of the first K - 1 terms of log p = -sum over k of (1 - p)^k / k, where p is the
    probability of a correct response. The rewards enter through P alone, because the estimator is one of a binary
    outcome.
    """

    def advantage(self, responses: ResponseTensors) -> Tensor:
        correct = responses.positive.to(responses.rewards.dtype)
        share = correct.mean(-1, keepdim=True)
        return ((correct - share) / share).masked_fill(share == 0, 0.0)

    def mean(self, values: Tensor, responses: ResponseTensors, totals: Totals) -> Tensor:
        return values.sum() / totals.tokens
