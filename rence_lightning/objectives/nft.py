"""NFT, negative-aware fine-tuning (Chen et al. 2025): maximum likelihood on correct and on wrong responses.

pi_old is a mixture of a policy of correct and one of wrong responses, with a share q of correct ones. With pi_theta for
the former, the latter is (pi_old - q pi_theta) / (1 - q), and its likelihood is maximised on the wrong responses. With
R = pi_theta / pi_old of a token, and omega a weight of the prompt, the loss of a token is, Eq. (10) of the source,

    -omega log R                                      in a response in P,
    -omega log max((1 - q R) / (1 - q), epsilon)      in a response in N,

where the gradient passes through the maximum as if it were its first argument.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import LOG_RATIO_LIMIT, Objective, ResponseTensors, Totals
from rence_lightning.objectives.importance import check_cap, token_weights

PromptWeight = Literal["failures", "odds", "none"]


def prompt_weights(share_G1: Tensor, kind: PromptWeight) -> Tensor:
    """The weights omega of the prompts, `(G, 1)`, from the shares q of correct responses; 0 where q is 0 or 1.

    With `failures`, 1 - q, the gradient at pi_old is that of Dr. GRPO; with `odds`, sqrt((1 - q) / q), that of GRPO.
    """
    if kind == "failures":
        weights_G1 = 1 - share_G1
    elif kind == "odds":
        weights_G1 = ((1 - share_G1) / share_G1).sqrt()
    else:
        weights_G1 = torch.ones_like(share_G1)
    return weights_G1.masked_fill((share_G1 == 0) | (share_G1 == 1), 0.0)


class NFT(Objective):
    """NFT with the ratio of a token, and the mean over the tokens of the update.

    Args:
        epsilon: Smallest likelihood ratio of the policy of wrong responses, > 0: an upper limit 1 / epsilon on how much
            harder a token of a wrong response is pushed down as pi_theta moves away from pi_old; the source has 1.
        prompt_weight: Weight of a prompt with the share q of correct responses: `failures` (1 - q), `odds`
            (sqrt((1 - q) / q)) or `none` (1).
        tis_cap: Largest importance weight pi_old / pi_engine of a token; null for no weights.
    """

    couples_responses = False

    def __init__(
        self, epsilon: float = 1.0, prompt_weight: PromptWeight = "failures", tis_cap: float | None = None
    ) -> None:
        if not epsilon > 0:
            raise UserError(f"objective: epsilon is {epsilon}; it must be > 0")
        if prompt_weight not in get_args(PromptWeight):
            choices = ", ".join(get_args(PromptWeight))
            raise UserError(f"objective: prompt_weight is {prompt_weight!r}, it must be one of {choices}")
        self.epsilon = epsilon
        self.prompt_weight: PromptWeight = prompt_weight
        self.tis_cap = check_cap(tis_cap)

    def loss(self, responses: ResponseTensors, totals: Totals) -> Tensor:
        log_ratio_GKT = responses.log_ratio
        share_G1 = responses.positive.to(log_ratio_GKT.dtype).mean(-1, keepdim=True)
        share_G11 = share_G1.unsqueeze(-1)
        wrong_GKT = 1 - share_G11 * log_ratio_GKT.clamp(max=LOG_RATIO_LIMIT).exp()
        wrong_GKT = wrong_GKT / (1 - share_G11).masked_fill(share_G11 == 1, 1.0)
        wrong_GKT = wrong_GKT.detach().clamp(min=self.epsilon) + (wrong_GKT - wrong_GKT.detach())
        likelihood_GKT = torch.where(responses.positive.unsqueeze(-1), log_ratio_GKT, wrong_GKT.log())
        losses_GKT = -prompt_weights(share_G1, self.prompt_weight).unsqueeze(-1) * likelihood_GKT
        if self.tis_cap is not None:
            losses_GKT = losses_GKT * token_weights(responses, self.tis_cap)
        return losses_GKT.masked_fill(~responses.mask, 0.0).sum() / totals.tokens
