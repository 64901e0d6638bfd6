"""Rewards of responses: the boxed answer, its comparison with the reference, and weighted sums of rewards."""

from rence_lightning.rewards.base import Reward, Score
from rence_lightning.rewards.combined import CombinedReward
from rence_lightning.rewards.math_reward import MathReward, math_equivalent
from rence_lightning.text import last_boxed

__all__ = ["CombinedReward", "MathReward", "Reward", "Score", "last_boxed", "math_equivalent"]
