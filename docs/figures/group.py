"""`python docs/figures/group.py`: draws one group of responses, as docs/rence.md explains it."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from rence_lightning.objectives.nce import multi_label_nce, reward_margin

REWARDS = (1.0, 1.0, 0.1, 0.1, 0.1, 0.0)
"""Two right answers, three wrong ones, and a response without a box."""

LOG_RATIOS = (2.0, -1.0, 1.0, -3.0, 0.0, -2.0)
"""log pi_theta(y|x) - log pi_old(y|x) of each response, some updates after it was sampled."""

BETA, ALPHA = 0.1, 0.5
COLOURS = {True: "#0072B2", False: "#D55E00"}


def scores_and_pulls() -> tuple[torch.Tensor, torch.Tensor, float]:
    """The scores of the group, the negative gradient of its loss with respect to them, and the loss."""
    rewards = torch.tensor([REWARDS], dtype=torch.float64)
    positive = rewards == rewards.max()
    margin = reward_margin(rewards, positive, "adaptive")
    scores = (BETA * torch.tensor([LOG_RATIOS], dtype=torch.float64) + ALPHA * margin).requires_grad_()
    loss = multi_label_nce(scores, positive).sum()
    loss.backward()
    assert scores.grad is not None
    return scores.detach()[0], -scores.grad[0], float(loss.detach())


def figure() -> Figure:
    """Scores on the left, and what the loss does to them on the right; a row for each response."""
    scores, pulls, _ = scores_and_pulls()
    drawn = Figure(figsize=(4.06, 2.9), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    places = range(len(REWARDS))
    colours = [COLOURS[reward == max(REWARDS)] for reward in REWARDS]
    margins = [ALPHA * (max(REWARDS) - reward) for reward in REWARDS]
    left.barh(places, margins, color="#BBBBBB")
    left.scatter(scores.tolist(), places, color=colours, zorder=3)
    left.set_title("score s(y)", fontsize=10)
    left.set_yticks(places, [f"r = {reward:g}" for reward in REWARDS])
    left.invert_yaxis()
    left.axvline(0, color="black", linewidth=0.8)
    right.barh(places, pulls.tolist(), color=colours)
    right.axvline(0, color="black", linewidth=0.8)
    right.set_title("- dloss / ds(y)", fontsize=10)
    return drawn


if __name__ == "__main__":
    figure().savefig(Path(__file__).with_name("group.png"), dpi=200, facecolor="white", metadata={"Software": None})
