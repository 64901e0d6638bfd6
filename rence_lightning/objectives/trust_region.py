"""The trust region of Section 3.5: a KL penalty to pi_old, the adaptive coefficient, and a hinge at `delta`.

The penalty is KL(pi_old || pi_theta), estimated on samples *of pi_old*. With ratio = pi_theta / pi_old the estimator is
k3 = ratio - 1 - log ratio (Schulman 2020), which is non-negative, and unbiased because E_old[ratio] = 1. The usual
k3 of PPO-style trainers has the inverse ratio, because it estimates KL(pi_theta || pi_ref) on samples of pi_theta. That
one is the penalty to a fixed reference policy, which can be added.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import LOG_RATIO_LIMIT, ResponseTensors, Totals

Estimator = Literal["k1", "k2", "k3"]
Reduction = Literal["token", "sequence"]


def kl_estimate(log_ratio: Tensor, estimator: Estimator = "k3") -> Tensor:
    """KL(pi_old || pi_theta) per token, in nats, from log pi_theta - log pi_old of tokens that pi_old has sampled.

    `k1` is -log ratio, `k2` is (log ratio)^2 / 2 and `k3` is ratio - 1 - log ratio.
    """
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    log_ratio = log_ratio.clamp(max=LOG_RATIO_LIMIT)
    return log_ratio.expm1() - log_ratio


def adapt_kl_coef(kl_coef: float, kl: float, target_kl: float, horizon: int, responses: int) -> float:
    """The coefficient after an update: lambda * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon).

    Source: Ziegler et al. (2019), Section 2.2. `responses` is n, the number of trajectories in the update. As in the
    authors' code, the horizon is counted in trajectories as well.
    """
    error = min(max(kl / target_kl - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * responses / horizon)


@dataclass
class TrustRegion:
    """The penalty lambda * KL(pi_old || pi_theta) of Eq. (1); or, with a delta, lambda / 2 * max(0, KL - delta)^2.

    The latter is the squared hinge with which DisCO (Li et al. 2025) enforces KL <= delta: no penalty within, one that
    grows beyond. It depends on the KL of the whole update, which takes a forward pass before the gradient passes of
    every update but the first of an iteration, where KL is 0. The logged loss has its linearisation, `weight` times KL.

    Args:
        kl_coef: Coefficient lambda of the penalty at the start; with 0 there is no penalty, but KL is still logged.
        estimator: Estimator of the KL divergence: `k1` (unbiased, can be negative), `k2` (low variance, biased) or `k3`
            (unbiased and non-negative).
        reduction: Mean that is taken: `token` over the update's response tokens, or `sequence` over its responses, with
            the sum over the tokens of each.
        delta: Largest KL divergence without a penalty, >= 0, in nats and in the given reduction; null for the linear
            penalty.
    """

    kl_coef: float = 0.001
    estimator: Estimator = "k3"
    reduction: Reduction = "token"
    delta: float | None = None

    def __post_init__(self) -> None:
        if not self.kl_coef >= 0:
            raise UserError(f"trust_region: kl_coef is {self.kl_coef}, it must be >= 0")
        if self.delta is not None and not self.delta >= 0:
            raise UserError(f"trust_region: delta is {self.delta}; it must be >= 0, or null for a linear penalty")

    def kl(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        """The part of the update's KL estimate that comes from `responses`: a scalar, in nats."""
        per_token = kl_estimate(responses.log_ratio, self.estimator)
        return per_token.sum() / (totals.tokens if self.reduction == "token" else totals.responses)

    def weight(self, kl: float) -> float:
        """The derivative of the penalty by the KL divergence of the update, `kl`."""
        return self.kl_coef if self.delta is None else self.kl_coef * max(kl - self.delta, 0.0)


@dataclass
class ReferencePenalty:
    """The penalty kl_coef * KL(pi_theta || pi_ref) of GRPO (Shao et al. 2024, Eqs. 3 and 4).

    pi_ref is the policy that the run started from. The estimator is k3 with the ratio pi_ref / pi_theta on the sampled
    tokens, and the mean is over the tokens of a response and then over responses.

    Args:
        kl_coef: Coefficient of the penalty, >= 0; with 0 there is no penalty, but KL is still logged.
    """

    kl_coef: float = 0.04

    def __post_init__(self) -> None:
        if not self.kl_coef >= 0:
            raise UserError(f"reference: kl_coef is {self.kl_coef}, it must be >= 0")

    def kl(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        """The part of the update's KL estimate that comes from `responses`: a scalar, in nats per token."""
        if responses.reference_log_probs is None:
            raise RuntimeError("the penalty needs the reference policy (ResponseTensors.reference_log_probs)")
        log_ratio = (responses.reference_log_probs - responses.log_probs).masked_fill(~responses.mask, 0.0)
        per_response = kl_estimate(log_ratio, "k3").sum(-1) / responses.lengths.clamp(min=1)
        return per_response.sum() / totals.responses
