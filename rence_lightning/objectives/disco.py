"""DisCO, discriminative constrained optimisation (Li et al. 2025): scores of P up, scores of N down.

A score is a mean over the tokens of a response, of log pi_theta or of pi_theta / pi_old, without clipping. The loss of
a prompt is

    tau log mean over y' in N of e^(s(y') / tau)  -  mean over y in P of s(y).

The smaller tau is, the more of the weight is on the negatives of the highest score, as in distributionally robust
optimisation; the limit of a large tau is the difference of the two means (the basic variant, DisCO-b). The source adds
the constraint KL(pi_old || pi_theta) <= delta as a squared hinge, which is a trust region (`TrustRegion.delta`).
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import LOG_RATIO_LIMIT, Objective, ResponseTensors, Totals, mean_over
from rence_lightning.objectives.importance import check_cap, weight_gradient

Score = Literal["log_likelihood", "likelihood_ratio"]


def disco(scores_GK: Tensor, positive_GK: Tensor, tau: float | None) -> Tensor:
    """The loss of each prompt, `(G,)`, from scores and the mask of bool of P; 0 where P or N is empty.

    The weights of the negatives have the temperature tau > 0; None makes them equal.
    """
    if tau is None:
        negatives_G = mean_over(scores_GK, ~positive_GK)
    else:
        # The lowest finite number stands for an empty N, whose logsumexp would have no gradient that is defined.
        masked_GK = (scores_GK / tau).masked_fill(positive_GK, torch.finfo(scores_GK.dtype).min)
        count_G = (~positive_GK).sum(-1).clamp(min=1).to(scores_GK.dtype)
        negatives_G = tau * (masked_GK.logsumexp(-1) - count_G.log())
    both_G = positive_GK.any(-1) & ~positive_GK.all(-1)
    return (negatives_G - mean_over(scores_GK, positive_GK)).masked_fill(~both_G, 0.0)


class DisCO(Objective):
    """DisCO, and with tau null its basic variant DisCO-b.

    Args:
        score: Kind of score: `log_likelihood`, the mean of log pi_theta over the tokens of a response, or
            `likelihood_ratio`, the mean of pi_theta / pi_old.
        tau: Temperature of the weights of the negatives; the source has 10 for `log_likelihood` and 1 for
            `likelihood_ratio`. Null weights all negatives equally.
        tis_cap: Largest importance weight pi_old / pi_engine of a response; null for no weights.
    """

    def __init__(self, score: Score = "log_likelihood", tau: float | None = 10.0, tis_cap: float | None = None) -> None:
        if score not in get_args(Score):
            raise UserError(f"objective: score is {score!r}, it must be one of {', '.join(get_args(Score))}")
        if tau is not None and not 0 < tau < math.inf:
            raise UserError(f"objective: tau is {tau}; it must be > 0, or null for equal weights of the negatives")
        self.score: Score = score
        self.tau = tau
        self.tis_cap = check_cap(tis_cap)

    def scores(self, responses: ResponseTensors) -> Tensor:
        """The scores `(G, K)`, means over the tokens of each response."""
        if self.score == "log_likelihood":
            values_GKT = responses.log_probs
        else:
            values_GKT = responses.log_ratio.clamp(max=LOG_RATIO_LIMIT).exp()
        return values_GKT.masked_fill(~responses.mask, 0.0).sum(-1) / responses.lengths.clamp(min=1)

    def loss(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        scores_GK = weight_gradient(self.scores(responses), responses, self.tis_cap)
        return disco(scores_GK, responses.positive, self.tau).sum() / totals.prompts
