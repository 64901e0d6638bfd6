"""Sampling: the rollouts of an iteration, graded, filtered and cached (lines 2 to 18 of Algorithm 1)."""

from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.curriculum.filtering import (
    FilterDecision,
    GradedGroup,
    NoFilter,
    Outcome,
    PositiveRatioFilter,
    PromptFilter,
    ZeroVarianceFilter,
)
from rence_lightning.sampling.curriculum.pool import PromptPool
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.sampler import RolloutSampler

__all__ = [
    "FilterDecision",
    "GradedGroup",
    "Group",
    "IterationBatch",
    "NoFilter",
    "Outcome",
    "PositiveRatioFilter",
    "PromptFilter",
    "PromptPool",
    "RolloutDataModule",
    "RolloutSampler",
    "ZeroVarianceFilter",
]
