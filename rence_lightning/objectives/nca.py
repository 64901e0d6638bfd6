"""Noise contrastive alignment with explicit rewards (Chen et al. 2024): no positive set, but soft labels.

Each response is a positive to the degree of its reward, softmax(r / temperature) over the group. As the temperature
falls, the labels become uniform over the responses of the highest reward.
"""

import torch.nn.functional as F
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives.base import ResponseTensors
from rence_lightning.objectives.nce import ContrastiveObjective, Margin


def info_nca(scores: Tensor, rewards: Tensor, temperature: float) -> Tensor:
    """InfoNCA: the cross-entropy of softmax(s) with the labels softmax(r / temperature).

    Args:
        scores: `(prompts, K)` float, s(x, y).
        rewards: `(prompts, K)`, r(x, y).
        temperature: Of the rewards (alpha in the source), > 0.

    Returns:
        `(prompts,)`, the loss of each prompt.
    """
    labels = (rewards / temperature).softmax(-1)
    return -(labels * scores.log_softmax(-1)).sum(-1)


def nca(scores: Tensor, rewards: Tensor, temperature: float) -> Tensor:
    """NCA: -sum over y of [softmax(r / temperature) log sigmoid(s) + (1 / K) log sigmoid(-s)].

    Each response by itself is told from noise (pi_old), not from the others: the loss sees absolute likelihoods, and
    unlike the other contrasts changes when all scores are shifted.

    Args:
        scores: `(prompts, K)` float, s(x, y).
        rewards: `(prompts, K)`, r(x, y).
        temperature: Of the rewards (alpha in the source), > 0.

    Returns:
        `(prompts,)`, the loss of each prompt.
    """
    labels = (rewards / temperature).softmax(-1)
    return -(labels * F.logsigmoid(scores)).sum(-1) - F.logsigmoid(-scores).mean(-1)


class _RewardLabels(ContrastiveObjective):
    """A contrast with labels from rewards.

    Args:
        beta: Scale of the log-ratio.
        reward_temperature: Of the labels softmax(r / reward_temperature).
        alpha: Scale of the margin (Eq. 2).
        margin: `none` in the source; `adaptive` or `constant` add that of Eq. (2).
    """

    def __init__(
        self, beta: float = 0.1, reward_temperature: float = 0.1, alpha: float = 0.5, margin: Margin = "none"
    ) -> None:
        super().__init__(beta, alpha, margin)
        if reward_temperature <= 0:
            raise UserError(f"objective: reward_temperature is {reward_temperature}; it must be > 0")
        self.reward_temperature = reward_temperature


class InfoNCA(_RewardLabels):
    """InfoNCA online: the reward-weighted softmax loss of Chen et al. (2024) that the paper's Section 2 discusses."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return info_nca(scores, responses.rewards, self.reward_temperature)


class NCA(_RewardLabels):
    """NCA of Chen et al. (2024), online."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return nca(scores, responses.rewards, self.reward_temperature)
