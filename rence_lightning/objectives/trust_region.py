"""The trust region of Section 3.5: a KL penalty to pi_old, and the adaptive coefficient's arithmetic.

The penalty is KL(pi_old || pi_theta), estimated on samples *of pi_old*. With ratio = pi_theta / pi_old that makes
k3 = ratio - 1 - log ratio (Schulman 2020): non-negative, and unbiased because E_old[ratio] = 1. The more familiar
k3 of PPO-style trainers has the ratio the other way up; it estimates KL(pi_theta || pi_ref) on samples of pi_theta.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import ResponseTensors, Totals

Estimator = Literal["k1", "k2", "k3"]
Reduction = Literal["token", "sequence"]

LOG_RATIO_LIMIT = 20.0
"""exp() of a log-ratio past this overflows the sums; a policy that far from pi_old is lost anyway. There is no limit
below: a token whose probability has collapsed is pulled back."""


def kl_estimate(log_ratio: Tensor, estimator: Estimator = "k3") -> Tensor:
    """KL(pi_old || pi_theta) per token, in nats, from samples of pi_old; same shape as `log_ratio`.

    Args:
        log_ratio: log pi_theta - log pi_old of sampled tokens.
        estimator: `k1` = -log ratio (unbiased, can be negative), `k2` = (log ratio)^2 / 2 (low variance, biased),
            `k3` = ratio - 1 - log ratio (unbiased and non-negative).
    """
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    log_ratio = log_ratio.clamp(max=LOG_RATIO_LIMIT)
    return log_ratio.expm1() - log_ratio


def adapt_kl_coef(kl_coef: float, kl: float, target_kl: float, horizon: int, responses: int) -> float:
    """The coefficient after an update: lambda * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon).

    Ziegler et al. (2019), Section 2.2. `responses` is n, the trajectories in the update: their code counts
    trajectories, so the horizon is in trajectories, too.
    """
    error = min(max(kl / target_kl - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * responses / horizon)


@dataclass
class TrustRegion:
    """The penalty lambda * KL(pi_old || pi_theta) of Eq. (1).

    Args:
        kl_coef: lambda, the (initial) coefficient; 0 switches the penalty off, KL is still logged.
        estimator: `k1`, `k2` or `k3`.
        reduction: `token`: mean over the update's response tokens; `sequence`: summed over each response, mean over
            the update's responses.
    """

    kl_coef: float = 0.001
    estimator: Estimator = "k3"
    reduction: Reduction = "token"

    def __post_init__(self) -> None:
        if self.kl_coef < 0:
            raise UserError(f"trust_region: kl_coef is {self.kl_coef}, but a penalty cannot be negative")

    def kl(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        """The share of the update's KL estimate that falls on `responses`: a scalar, in nats."""
        per_token = kl_estimate(responses.log_ratio, self.estimator)
        return per_token.sum() / (totals.tokens if self.reduction == "token" else totals.responses)
