"""The embedded engine, against Hugging Face's generate and brute-force probabilities."""

import math

import pytest
import torch
from engine_streams import requests, sampled
from tiny_models import ARCHITECTURES, EOS, VOCABULARY, tiny_policy
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.policy import Policy
from rence_lightning.rollouts import Rollout, Sampling, TransformersEngine
from rence_lightning.rollouts.draw import sample
from rence_lightning.rollouts.engine import end_of_sequence_ids

PROMPTS = [[5, 6, 7], [3, 4], [9, 10, 11, 12, 13, 14], [3, 4, 5, 6]]
SEEDS = [11, 12, 13, 14]
SAMPLING = Sampling(max_response_tokens=24)


def generate(policy: Policy, sampling: Sampling = SAMPLING, group_size: int = 6) -> list[list[Rollout]]:
    engine = TransformersEngine()
    engine.sync(policy)
    return sampled(engine, PROMPTS, group_size, sampling, SEEDS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_temperature_zero_is_greedy_generate(architecture: str) -> None:
    policy = tiny_policy(architecture)
    groups = generate(policy, Sampling(temperature=0, max_response_tokens=24), group_size=2)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        reference = policy.model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
        assert group[0].token_ids.tolist() == group[1].token_ids.tolist() == reference[0, len(prompt) :].tolist()


def test_any_of_several_end_tokens_ends_a_response() -> None:
    """A chat model ends its turn with one token and the text with another; the generation config lists both."""
    policy = tiny_policy()
    ends = [EOS, 17, 23]
    policy.model.generation_config.eos_token_id = ends
    rollouts = [rollout for group in generate(policy, group_size=32) for rollout in group]
    assert {r.token_ids[-1] for r in rollouts if r.finish_reason == "stop"} == set(ends), "the test needs all three"
    for rollout in rollouts:
        assert not set(rollout.token_ids[:-1]) & set(ends), "sampling went on after an end token"
        assert (rollout.finish_reason == "stop") == (rollout.token_ids[-1] in ends)


def test_end_tokens_are_those_of_the_config_where_generation_names_none() -> None:
    policy = tiny_policy()
    policy.model.generation_config.eos_token_id = None
    assert end_of_sequence_ids(policy.model) == [EOS]
    policy.model.config.eos_token_id = None
    with pytest.raises(UserError, match="eos_token_id"):
        generate(policy)


def test_no_prompts_no_responses_and_no_policy_no_sampling() -> None:
    engine = TransformersEngine()
    with pytest.raises(RuntimeError, match="sync"):
        next(engine.generate(requests(PROMPTS, 2, SAMPLING, SEEDS)))
    engine.sync(tiny_policy())
    assert list(engine.generate([])) == []


def test_steps_count_every_response_and_token_once() -> None:
    engine = TransformersEngine(max_num_seqs=12)
    engine.sync(tiny_policy())
    steps = list(engine.generate(requests(PROMPTS, 6, SAMPLING, SEEDS)))
    groups = [group for step in steps for group in step.finished]
    assert sum(step.responses for step in steps) == 24
    assert sum(step.tokens for step in steps) == sum(len(r.token_ids) for group in groups for r in group.rollouts)


def test_a_policy_in_training_mode_is_sampled_without_dropout() -> None:
    policy = tiny_policy()
    expected = generate(policy)
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    policy.train()
    assert generate(policy) == expected, "log pi_old would be those of a random other network"


def test_weights_are_read_as_they_are_now() -> None:
    """No copy goes stale: after a change of the policy the next responses are the changed policy's."""
    policy, engine = tiny_policy(), TransformersEngine()
    engine.sync(policy)
    first = sampled(engine, PROMPTS, 4, SAMPLING, SEEDS)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.ones_like(parameter))
    engine.sync(policy)
    assert sampled(engine, PROMPTS, 4, SAMPLING, SEEDS) == generate(policy, group_size=4) != first


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The distribution sampled from: tokens from the most likely down, until they hold `top_p`."""
    ranked = sorted(range(len(probs)), key=lambda token: -probs[token])
    chosen: list[int] = []
    while sum(probs[token] for token in chosen) < top_p - 1e-12 and len(chosen) < len(probs):
        chosen.append(ranked[len(chosen)])
    expected = torch.zeros(len(probs), dtype=torch.float64)
    expected[chosen] = probs[chosen] / probs[chosen].sum()
    return expected


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.95)])
def test_sampled_pairs_of_tokens_follow_the_model(temperature: float, top_p: float) -> None:
    """First tokens, and second tokens given the likeliest first: 8,000 samples against the model's own probabilities.
    One uniform number used for both steps, or shared by the group, would show. (Seeds are fixed: no chance of a flake.)
    """
    policy, prompt = tiny_policy("llama-untied"), [5, 6, 7]
    engine = TransformersEngine(max_num_seqs=8000)
    engine.sync(policy)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_response_tokens=2)
    (group,) = sampled(engine, [prompt], 8000, sampling, [0])

    def probabilities(prefix: list[int]) -> Tensor:
        logits = policy.model(torch.tensor([prefix])).logits[0, -1].double()
        return nucleus((logits / temperature).softmax(-1).detach(), top_p)

    def assert_fair(tokens: list[int], probs: Tensor) -> None:
        """Pearson's chi-square; the limit (by Wilson and Hilferty) is passed by one fair sampler in 10,000."""
        counts = torch.bincount(torch.tensor(tokens), minlength=VOCABULARY)
        inside = probs > 0
        assert not counts[~inside].any(), "a token outside the nucleus was sampled"
        expected, freedom = probs[inside] * len(tokens), int(inside.sum()) - 1
        statistic = ((counts[inside] - expected).square() / expected).sum().item()
        limit = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
        assert statistic < limit, "frequencies of sampled tokens are not the model's probabilities"

    first = probabilities(prompt)
    assert_fair([rollout.token_ids[0] for rollout in group], first)
    likeliest = int(first.masked_fill(torch.arange(VOCABULARY) == EOS, 0).argmax())
    second = [rollout.token_ids[1] for rollout in group if rollout.token_ids[0] == likeliest]
    assert len(second) > 500, "the test needs many samples of one first token"
    assert_fair(second, probabilities([*prompt, likeliest]))


@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_are_the_probabilities(top_p: float, temperature: float) -> None:
    """Every quantile is drawn, evenly spaced: frequencies then equal probabilities to within one draw in 20,000."""
    logits = torch.tensor([2.0, -1.0, 0.5, 0.5, 1.9, -3.0])
    probs = (logits.double() / temperature).softmax(-1)
    expected = nucleus(probs, top_p)
    draws = 20_000
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    token, log_prob = sample(logits.expand(draws, 6), uniform, Sampling(temperature=temperature, top_p=top_p))
    frequencies = torch.bincount(token, minlength=6) / draws
    torch.testing.assert_close(frequencies.double(), expected, rtol=0, atol=1.01 / draws)
    torch.testing.assert_close(log_prob.double(), probs.log()[token], rtol=0, atol=1e-6)


def test_the_outermost_quantiles_never_pick_an_impossible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    for quantile in (0.0, 1.0 - 2**-53):
        for top_p in (1.0, 0.9):
            token, log_prob = sample(logits, torch.tensor([quantile], dtype=torch.float64), Sampling(top_p=top_p))
            assert token.item() in (1, 2) and log_prob.isfinite(), f"quantile {quantile}, top_p {top_p}"


@pytest.mark.parametrize("size", [1, 255, 256, 1024, 1025, 5000])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_large_vocabulary_is_searched_exactly(size: int, top_p: float) -> None:
    """Against the cumulative distribution in float64, over the whole vocabulary; flat rows are beside peaked ones."""
    generator = torch.Generator().manual_seed(size)
    logits = torch.tensor([5.0, 0.5]).repeat(100).unsqueeze(-1) * torch.randn(200, size, generator=generator)
    logits[:, ::3] = -torch.inf
    logits[:, 0] = 0.0  # at least one is possible
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    token, log_prob = sample(logits, uniform, Sampling(top_p=top_p))
    probs = logits.double().softmax(-1)
    ranked, order = probs.sort(-1, descending=True) if top_p < 1 else (probs, torch.arange(size).expand(200, size))
    inside = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0)
    cumulative = inside.cumsum(-1)
    place = torch.searchsorted(cumulative, uniform.unsqueeze(-1) * cumulative[:, -1:], right=True)
    assert (token == order.gather(-1, place).squeeze(-1)).float().mean() >= 0.99, "all but those at a boundary"
    expected = probs.log().gather(-1, token.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_prob.double(), expected, rtol=0, atol=5e-6)


def test_bad_settings_are_refused() -> None:
    for settings, words in (
        *(({"temperature": value}, "temperature") for value in (-1, 1e-40, float("nan"), float("inf"))),
        ({"top_p": 0}, "top_p"),
        ({"max_response_tokens": 0}, "max"),
    ):
        with pytest.raises(UserError, match=words):
            Sampling(**settings)
    with pytest.raises(UserError, match="max_num_seqs"):
        TransformersEngine(0)
