"""Noise contrastive alignment with explicit rewards (Chen et al. 2024): soft labels instead of a positive set.

The label of a response is softmax(r / temperature) over the group. As the temperature falls, the labels become uniform
over the responses of the highest reward.
"""

import torch.nn.functional as F
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import ResponseTensors
from rence_lightning.objectives.nce import ContrastiveObjective, Margin


def info_nca(scores: Tensor, rewards: Tensor, temperature: float) -> Tensor:
    """InfoNCA: the cross-entropy of softmax(s) with the labels softmax(r / temperature).

    Scores s(x, y) and rewards r(x, y) are `(G, K)`, the temperature (alpha in the source) is > 0, and the loss of each
    prompt is `(G,)`.
    """
    return -((rewards / temperature).softmax(-1) * scores.log_softmax(-1)).sum(-1)


def nca(scores: Tensor, rewards: Tensor, temperature: float) -> Tensor:
    """NCA: -sum over y of [softmax(r / temperature) log sigmoid(s) + (1 / K) log sigmoid(-s)].

    Each response is distinguished from noise (pi_old), not from the other responses. The loss therefore depends on
    absolute likelihoods and, unlike the other contrasts, changes when all scores are shifted. Shapes are those of
    `info_nca`.
    """
    labels = (rewards / temperature).softmax(-1)
    return -(labels * F.logsigmoid(scores)).sum(-1) - F.logsigmoid(-scores).mean(-1)


class _RewardLabels(ContrastiveObjective):
    """A contrast whose labels are computed from the rewards.

    Args:
        beta: Scale of the log-ratio in the score.
        reward_temperature: Temperature of the labels softmax(r / reward_temperature).
        alpha: Scale of the margin (Eq. 2).
        margin: Kind of margin: `none` as in the source, or `adaptive` or `constant` for that of Eq. (2).
        tis_cap: Largest importance weight pi_old / pi_engine of a response; null for no weights.
    """

    def __init__(
        self,
        beta: float = 0.1,
        reward_temperature: float = 0.1,
        alpha: float = 0.5,
        margin: Margin = "none",
        tis_cap: float | None = None,
    ) -> None:
        super().__init__(beta, alpha, margin, tis_cap)
        if reward_temperature <= 0:
            raise UserError(f"objective: reward_temperature is {reward_temperature}; it must be > 0")
        self.reward_temperature = reward_temperature


class InfoNCA(_RewardLabels):
    """InfoNCA with online samples: the reward-weighted softmax loss of Chen et al. (2024), discussed in Section 2."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return info_nca(scores, responses.rewards, self.reward_temperature)


class NCA(_RewardLabels):
    """NCA of Chen et al. (2024) with online samples."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return nca(scores, responses.rewards, self.reward_temperature)
