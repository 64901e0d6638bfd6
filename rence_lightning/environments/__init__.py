"""What answers a policy's turns: tools and games, one file each."""

from rence_lightning.environments.calculator import Calculator
from rence_lightning.environments.environment import Environment, TurnLimits
from rence_lightning.environments.guessing import Guessing

__all__ = ["Calculator", "Environment", "Guessing", "TurnLimits"]
