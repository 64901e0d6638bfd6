"""Sampling: the rollouts of an iteration, graded, filtered and cached (lines 2 to 18 of Algorithm 1)."""

from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.curriculum import (
    GradedGroup,
    GRESOSkipping,
    Judgement,
    NoFilter,
    Outcome,
    PositiveRatioFilter,
    PromptFilter,
    PromptPool,
    PromptSkipping,
    WithoutTruncated,
    ZeroVarianceFilter,
)
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.sampler import RolloutSampler

__all__ = [
    "GRESOSkipping",
    "GradedGroup",
    "Group",
    "IterationBatch",
    "Judgement",
    "NoFilter",
    "Outcome",
    "PositiveRatioFilter",
    "PromptFilter",
    "PromptPool",
    "PromptSkipping",
    "RolloutDataModule",
    "RolloutSampler",
    "WithoutTruncated",
    "ZeroVarianceFilter",
]
