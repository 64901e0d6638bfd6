"""Sampling: the rollouts of an iteration, graded, filtered and cached (lines 2 to 18 of Algorithm 1)."""

from rence_lightning.sampling.curriculum import (
    GRESOSkipping,
    Judgement,
    NoFilter,
    PositiveRatioFilter,
    PromptFilter,
    PromptPool,
    PromptSkipping,
    Verdict,
    ZeroVarianceFilter,
)
from rence_lightning.sampling.datamodule import IterationBatch, RolloutDataModule
from rence_lightning.sampling.groups import Group, GroupSampler

__all__ = [
    "GRESOSkipping",
    "Group",
    "GroupSampler",
    "IterationBatch",
    "Judgement",
    "NoFilter",
    "PositiveRatioFilter",
    "PromptFilter",
    "PromptPool",
    "PromptSkipping",
    "RolloutDataModule",
    "Verdict",
    "ZeroVarianceFilter",
]
