"""Noise contrastive estimation over the responses of a group.

The method of the paper is Eq. (1), `multi_label_nce`: each positive against itself and the negatives. Section 3.3
prints a denominator over P and N together, which is the *Softmax* ablation of Table 4, `softmax_contrast`. The two
are equal for a group with one positive.
"""

import math
from abc import abstractmethod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rence_lightning.errors import UserError, invalid_return
from rence_lightning.objectives.base import Objective, ResponseTensors, Totals, mean_over
from rence_lightning.objectives.importance import check_cap, weight_gradient

Margin = Literal["adaptive", "constant", "none"]


def multi_label_nce(scores: Tensor, positive: Tensor) -> Tensor:
    """Multi-label NCE, Eq. (1): -(1/|P|) sum over y in P of log(e^s(y) / sum over {y} and N of e^s).

    Scores s(x, y) and the mask of bool, True on P, are `(G, K)`; the loss of each prompt is `(G,)`, and 0 where P or N
    is empty.
    """
    # -log(e^s / (e^s + sum over N)) = softplus(logsumexp over N - s). The lowest finite number stands for an empty N,
    # because the gradient of a logsumexp over minus infinities alone is not well defined.
    negatives_G1 = scores.masked_fill(positive, torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
    return mean_over(F.softplus(negatives_G1 - scores), positive)


def softmax_contrast(scores: Tensor, positive: Tensor) -> Tensor:
    """The *Softmax* ablation of Table 4: as `multi_label_nce`, but the other positives are in the denominator, and the
    loss is 0 only where P is empty."""
    return mean_over(scores.logsumexp(-1, keepdim=True) - scores, positive)


def reward_margin(rewards: Tensor, positive: Tensor, margin: Margin) -> Tensor:
    """The margins m(x, y) of Eq. (5), `(G, K)`.

    `adaptive` is r_max - r (0 on the best responses), `constant` is 1 on every negative and 0 on positives (Table 2),
    `none` is 0.
    """
    if margin == "adaptive":
        return rewards.amax(-1, keepdim=True) - rewards
    if margin == "constant":
        return (~positive).to(rewards.dtype)
    return torch.zeros_like(rewards)


class ContrastiveObjective(Objective):
    """A loss on the scores s = beta * log(pi_theta(y|x) / pi_old(y|x)) + alpha * m(x, y), Eq. (2).

    Both log-probabilities are summed over the response's tokens. The loss of an update is the mean over its prompts.

    Args:
        beta: Scale of the log-ratio in the score.
        alpha: Scale of the margin in the score.
        margin: Kind of margin: `adaptive` (r_max - r), `constant` (1 for every negative) or `none`.
        tis_cap: Largest importance weight pi_old / pi_engine of a response; null for no weights.
    """

    def __init__(
        self, beta: float = 0.1, alpha: float = 0.5, margin: Margin = "adaptive", tis_cap: float | None = None
    ) -> None:
        if not 0 < beta < math.inf:
            raise UserError(f"objective: beta is {beta}, but the score needs beta > 0")
        if not 0 <= alpha < math.inf:
            raise UserError(f"objective: alpha is {alpha}, it must be >= 0: a negative one favours bad responses")
        if margin not in get_args(Margin):
            raise UserError(f"objective: margin is {margin!r}, it must be one of {', '.join(get_args(Margin))}")
        self.beta, self.alpha, self.tis_cap = beta, alpha, check_cap(tis_cap)
        self.margin: Margin = margin

    def scores(self, responses: ResponseTensors) -> Tensor:
        """The scores of Eq. (2), `(G, K)`."""
        margin = reward_margin(responses.rewards, responses.positive, self.margin)
        return self.beta * responses.sequence_log_ratio + self.alpha * margin

    @abstractmethod
    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        """The loss of each prompt, `(G,)`, from the scores `(G, K)` of `responses`."""

    def loss(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        scores = weight_gradient(self.scores(responses), responses, self.tis_cap)
        losses = self.contrast(scores, responses)
        if losses.shape != responses.positive.shape[:1]:
            expected = f"a loss for each of {len(responses.positive)} prompts"
            raise invalid_return(self, "contrast()", losses.shape, expected)
        return losses.sum() / totals.prompts


class MultiLabelNCE(ContrastiveObjective):
    """The paper's objective, Eq. (1)."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return multi_label_nce(scores, responses.positive)


class SoftmaxContrast(ContrastiveObjective):
    """The *Softmax* ablation of Table 4, with the positives in the denominator."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return softmax_contrast(scores, responses.positive)
