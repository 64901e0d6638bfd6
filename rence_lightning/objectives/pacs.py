"""PACS (Li et al. 2025): the policy as a classifier of its own responses, into correct and wrong ones.

The logit of a response is its score minus the mean of the other scores of the group (leave one out), the label is 1 on
P and 0 on N, and the loss is the binary cross-entropy. The reference policy of the score is pi_old, as in the authors'
code; their text has a reference that is set to the current policy from time to time.
"""

import torch.nn.functional as F
from torch import Tensor

from rence_lightning.objectives.base import ResponseTensors
from rence_lightning.objectives.nce import ContrastiveObjective, Margin


def pacs(scores_GK: Tensor, positive_GK: Tensor, balanced: bool) -> Tensor:
    """The loss of each prompt, `(G,)`: the mean over responses of the cross-entropy of sigmoid(psi) with the label.

    psi = s - mean of the K - 1 other scores. If it is balanced, P and N weigh the same where neither is empty:
    K / (2 |P|) for each response in P and K / (2 |N|) for each in N.
    """
    k = scores_GK.shape[-1]
    others_GK = (scores_GK.sum(-1, keepdim=True) - scores_GK) / max(k - 1, 1)
    labels_GK = positive_GK.to(scores_GK.dtype)
    losses_GK = F.binary_cross_entropy_with_logits(scores_GK - others_GK, labels_GK, reduction="none")
    if balanced:
        good_G1 = labels_GK.sum(-1, keepdim=True)
        weights_GK = (k / 2) * (labels_GK / good_G1.clamp(min=1) + (1 - labels_GK) / (k - good_G1).clamp(min=1))
        losses_GK = losses_GK * weights_GK.where((good_G1 > 0) & (good_G1 < k), 1.0)
    return losses_GK.mean(-1)


class PACS(ContrastiveObjective):
    """PACS, with the score beta * log(pi_theta(y|x) / pi_old(y|x)), Eqs. (6) to (8) of the source.

    Args:
        beta: Scale of the log-ratio in the score.
        balanced: Whether the positives and the negatives of a group weigh the same.
        alpha: Scale of the margin (Eq. 2 of ReNCE).
        margin: Kind of margin: `none` as in the source, or `adaptive` or `constant` for that of ReNCE's Eq. (2).
        tis_cap: Largest importance weight pi_old / pi_engine of a response; null for no weights.
    """

    def __init__(
        self,
        beta: float = 1.0,
        balanced: bool = True,
        alpha: float = 0.5,
        margin: Margin = "none",
        tis_cap: float | None = None,
    ) -> None:
        super().__init__(beta, alpha, margin, tis_cap)
        self.balanced = balanced

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return pacs(scores, responses.positive, self.balanced)
