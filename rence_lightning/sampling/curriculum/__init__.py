"""The choice of the prompts to sample and of the groups to train on: pool, order, filtering and skipping."""

from rence_lightning.sampling.curriculum.draws import DrawSize
from rence_lightning.sampling.curriculum.filtering import (
    GradedGroup,
    Judgement,
    NoFilter,
    Outcome,
    PositiveRatioFilter,
    PromptFilter,
    WithoutTruncated,
    ZeroVarianceFilter,
)
from rence_lightning.sampling.curriculum.pool import PromptPool
from rence_lightning.sampling.curriculum.skipping import GRESOSkipping, PromptSkipping

__all__ = [
    "DrawSize",
    "GRESOSkipping",
    "GradedGroup",
    "Judgement",
    "NoFilter",
    "Outcome",
    "PositiveRatioFilter",
    "PromptFilter",
    "PromptPool",
    "PromptSkipping",
    "WithoutTruncated",
    "ZeroVarianceFilter",
]
