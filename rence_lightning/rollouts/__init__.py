"""Sampling of responses: the engine protocol, and one file for each engine."""

from rence_lightning.rollouts.engine import (
    FinishedGroup,
    Request,
    Rollout,
    RolloutEngine,
    SampledPolicy,
    Sampling,
    SamplingStep,
    end_of_sequence_ids,
)
from rence_lightning.rollouts.transformers import TransformersEngine
from rence_lightning.rollouts.vllm import VLLMEngine

__all__ = [
    "FinishedGroup",
    "Request",
    "Rollout",
    "RolloutEngine",
    "SampledPolicy",
    "Sampling",
    "SamplingStep",
    "TransformersEngine",
    "VLLMEngine",
    "end_of_sequence_ids",
]
