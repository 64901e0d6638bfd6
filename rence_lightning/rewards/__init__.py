"""Rewards of responses: of the boxed answer, of a function of one's own, and weighted means of rewards."""

from rence_lightning.rewards.base import Response, Reward, Score
from rence_lightning.rewards.combined import CombinedReward
from rence_lightning.rewards.function import FunctionReward
from rence_lightning.rewards.math_reward import MathReward, math_equivalent
from rence_lightning.text import last_boxed

__all__ = [
    "CombinedReward",
    "FunctionReward",
    "MathReward",
    "Response",
    "Reward",
    "Score",
    "last_boxed",
    "math_equivalent",
]
