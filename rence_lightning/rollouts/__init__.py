"""Sampling responses: the engine protocol, and one engine a file."""

from rence_lightning.rollouts.engine import EngineProgress, GroupFinished, Rollout, RolloutEngine, Sampling
from rence_lightning.rollouts.transformers import TransformersEngine
from rence_lightning.rollouts.vllm import VLLMEngine

__all__ = [
    "EngineProgress",
    "GroupFinished",
    "Rollout",
    "RolloutEngine",
    "Sampling",
    "TransformersEngine",
    "VLLMEngine",
]
