"""Rewards of responses: of the boxed answer, of a function of one's own, and weighted means of rewards."""

from rence_lightning.parts import last_boxed
from rence_lightning.rewards.combined import CombinedReward
from rence_lightning.rewards.function import FunctionReward
from rence_lightning.rewards.gym import GymReward
from rence_lightning.rewards.last_number import LastNumberReward
from rence_lightning.rewards.math_reward import MathReward, math_equivalent
from rence_lightning.rewards.reward import Response, Reward, Score

__all__ = [
    "CombinedReward",
    "FunctionReward",
    "GymReward",
    "LastNumberReward",
    "MathReward",
    "Response",
    "Reward",
    "Score",
    "last_boxed",
    "math_equivalent",
]
