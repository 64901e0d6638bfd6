"""Sampling of responses: the engine protocol, and one file for each engine."""

from rence_lightning.rollouts.engine import (
    EngineProgress,
    GroupFinished,
    Rollout,
    RolloutEngine,
    SampledPolicy,
    Sampling,
)
from rence_lightning.rollouts.transformers import TransformersEngine
from rence_lightning.rollouts.vllm import VLLMEngine

__all__ = [
    "EngineProgress",
    "GroupFinished",
    "Rollout",
    "RolloutEngine",
    "SampledPolicy",
    "Sampling",
    "TransformersEngine",
    "VLLMEngine",
]
