"""Pairwise contrast: DPO over the responses of a group, with pi_old as the reference policy.

With a reference that is refreshed at each iteration's rollouts this is semi-online DPO (Lanchantin et al. 2025), whose
s, the number of updates between two synchronisations, is updates_per_iteration.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rence_lightning.objectives.base import ResponseTensors
from rence_lightning.objectives.nce import ContrastiveObjective


def all_pairs(scores: Tensor, positive: Tensor) -> Tensor:
    """Group-DPO: the mean over all pairs (y in P, y' in N) of -log sigmoid(s(y) - s(y')).

    Scores s(x, y) and the mask of bool, True on P, are `(G, K)`; the loss of each prompt is `(G,)`, and 0 where P or N
    is empty.
    """
    pairs_GKK = positive.unsqueeze(-1) & ~positive.unsqueeze(-2)  # y by y'
    losses_GKK = -F.logsigmoid(scores.unsqueeze(-1) - scores.unsqueeze(-2))
    return losses_GKK.masked_fill(~pairs_GKK, 0.0).sum((-2, -1)) / pairs_GKK.sum((-2, -1)).clamp(min=1)


def random_pair(scores: Tensor, positive: Tensor, generator: torch.Generator) -> Tensor:
    """As `all_pairs`, of one pair for each prompt: y is drawn uniformly from P, and y' from N.

    The random number generator is on the CPU, so that the pairs do not depend on the device.
    """
    # The position of the largest of iid uniform numbers is uniform, so one number per response chooses in P and in N.
    draws = torch.rand(scores.shape, generator=generator).to(scores.device)
    y_G1 = draws.masked_fill(~positive, -1.0).argmax(-1, keepdim=True)
    y_prime_G1 = draws.masked_fill(positive, -1.0).argmax(-1, keepdim=True)
    losses_G = -F.logsigmoid(scores.gather(-1, y_G1) - scores.gather(-1, y_prime_G1)).squeeze(-1)
    return losses_G.masked_fill(~(positive.any(-1) & ~positive.all(-1)), 0.0)


class AllPairs(ContrastiveObjective):
    """Group-DPO, the objective of semi-online DPO (Table 1) and *All-pairs pairwise* (Table 4)."""

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        return all_pairs(scores, responses.positive)


class RandomPair(ContrastiveObjective):
    """DPO on one pair of each group (Table 4, *Random pair pairwise*).

    The pair is drawn from the seed of the group (`ResponseTensors.seeds`), so that it is the same in every pass over
    the group's rollouts.
    """

    def contrast(self, scores: Tensor, responses: ResponseTensors) -> Tensor:
        losses = [
            random_pair(score.unsqueeze(0), positive.unsqueeze(0), torch.Generator().manual_seed(seed))
            for score, positive, seed in zip(scores, responses.positive, responses.seeds, strict=True)
        ]
        return torch.cat(losses)
