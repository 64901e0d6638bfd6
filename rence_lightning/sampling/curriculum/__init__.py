"""Which prompts are sampled and which groups are trained on: the pool, its order, filtering and skipping."""

from rence_lightning.sampling.curriculum.filtering import (
    Judgement,
    NoFilter,
    Outcome,
    PositiveRatioFilter,
    PromptFilter,
    ZeroVarianceFilter,
)
from rence_lightning.sampling.curriculum.pool import PromptPool
from rence_lightning.sampling.curriculum.skipping import GRESOSkipping, PromptSkipping

__all__ = [
    "GRESOSkipping",
    "Judgement",
    "NoFilter",
    "Outcome",
    "PositiveRatioFilter",
    "PromptFilter",
    "PromptPool",
    "PromptSkipping",
    "ZeroVarianceFilter",
]
