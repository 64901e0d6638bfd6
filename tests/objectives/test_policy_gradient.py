"""GRPO, DAPO, GSPO and Dr. GRPO: each against a loop over its equation, clipping by hand, and what rewards may do."""

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import POLICY_GRADIENT, assert_same, build, random_groups, totals_of, value_and_gradient
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives import DAPO, GRPO, GSPO, DrGRPO, MaxRL, PolicyGradient, ResponseTensors
from rence_lightning.objectives.policy_gradient import clipped_surrogate, group_advantage, overlong_penalty

# ---- the equations, a token at a time, in floats and autograd scalars ----------------------------------------------


def standardised(rewards: list[float]) -> list[float]:
    spread = statistics.stdev(rewards)
    return [(reward - statistics.fmean(rewards)) / (spread + 1e-6) for reward in rewards]


def term(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    """-min(w A, clip(w) A), by cases."""
    if advantage > 0 and ratio > 1 + high:
        return torch.tensor(-(1 + high) * advantage, dtype=torch.float64)
    if advantage < 0 and ratio < 1 - low:
        return torch.tensor(-(1 - low) * advantage, dtype=torch.float64)
    return -ratio * advantage


def log_ratios(groups: ResponseTensors, p: int, k: int) -> list[Tensor]:
    """log w of each token of a response."""
    here = [t for t in range(groups.mask.shape[-1]) if groups.mask[p, k, t]]
    return [groups.log_probs[p, k, t] - groups.old_log_probs[p, k, t] for t in here]


def naive_grpo(groups: ResponseTensors) -> Tensor:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for p, rewards in enumerate(groups.rewards.tolist()):
        for k, advantage in enumerate(standardised(rewards)):
            terms = [term(torch.exp(x), advantage, 0.2, 0.3) for x in log_ratios(groups, p, k)]
            total, count = total + sum(terms) / len(terms), count + 1
    return total / count


def naive_dapo(groups: ResponseTensors) -> Tensor:
    """With a limit of 9 tokens and a buffer of 4."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for p, rewards in enumerate(groups.rewards.tolist()):
        lengths = [len(log_ratios(groups, p, k)) for k in range(len(rewards))]
        penalties = [0.0 if length <= 5 else (5 - length) / 4 for length in lengths]
        for k, advantage in enumerate(standardised([r + q for r, q in zip(rewards, penalties, strict=True)])):
            for x in log_ratios(groups, p, k):
                total, count = total + term(torch.exp(x), advantage, 0.2, 0.3), count + 1
    return total / count


def naive_gspo(groups: ResponseTensors) -> Tensor:
    """One term a response, of the geometric mean of its tokens' ratios."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for p, rewards in enumerate(groups.rewards.tolist()):
        for k, advantage in enumerate(standardised(rewards)):
            logs = log_ratios(groups, p, k)
            ratio = torch.stack([torch.exp(x) for x in logs]).prod() ** (1 / len(logs))
            total, count = total + term(ratio, advantage, 0.02, 0.03), count + 1
    return total / count


def naive_dr_grpo(groups: ResponseTensors) -> Tensor:
    """Each response over 9 tokens, whatever its length."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for p, rewards in enumerate(groups.rewards.tolist()):
        for k, reward in enumerate(rewards):
            for x in log_ratios(groups, p, k):
                total = total + term(torch.exp(x), reward - statistics.fmean(rewards), 0.2, 0.3) / 9
            count += 1
    return total / count


def naive_max_rl(groups: ResponseTensors) -> Tensor:
    """Algorithm 1 of MaxRL, with a reward of 1 on P, and each token of the update weighing the same."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for p, positive in enumerate(groups.positive.tolist()):
        mu = statistics.fmean(positive)
        for k, reward in enumerate(positive):
            for x in log_ratios(groups, p, k):
                total = total + term(torch.exp(x), (reward - mu) / mu if mu > 0 else 0.0, 0.2, 0.3)
                count += 1
    return total / count


EQUATIONS: list[tuple[PolicyGradient, Callable[[ResponseTensors], Tensor]]] = [
    (GRPO(clip_high=0.3), naive_grpo),
    (DAPO(clip_high=0.3, overlong_buffer=4, max_response_tokens=9), naive_dapo),
    (GSPO(clip_low=0.02, clip_high=0.03), naive_gspo),
    (DrGRPO(clip_high=0.3, max_response_tokens=9), naive_dr_grpo),
    (MaxRL(clip_high=0.3), naive_max_rl),
]


@pytest.mark.parametrize(("objective", "equation"), EQUATIONS)
@pytest.mark.parametrize("seed", range(4))
def test_losses_are_the_equations_token_by_token(
    objective: PolicyGradient, equation: Callable[[ResponseTensors], Tensor], seed: int
) -> None:
    groups = random_groups(seed=seed)
    expected = equation(groups)
    (gradient,) = torch.autograd.grad(expected, groups.log_probs)
    actual = value_and_gradient(objective, groups)
    assert_same(actual, (expected.detach(), gradient), f"{type(objective).__name__} is not its equation")
    assert 0.02 < objective.metrics(groups, totals_of(groups))["clip_share"] < 0.9, "clipping is not put to the test"


def test_every_objective_of_the_family_has_an_equation() -> None:
    assert {type(objective) for objective, _ in EQUATIONS} == set(POLICY_GRADIENT)


# ---- advantages ----------------------------------------------------------------------------------------------------


def test_an_advantage_by_hand() -> None:
    """Rewards 1, 0, 0, 0: mean 1/4, variance of the sample 1/4."""
    rewards = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    assert group_advantage(rewards)[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=3e-6)
    assert group_advantage(rewards, standardise=False)[0].tolist() == [0.75, -0.25, -0.25, -0.25]


rewards_of_a_group = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, -1.0]), min_size=2, max_size=8)


@given(rewards_of_a_group, st.floats(-10, 10), st.floats(0.1, 10))
def test_advantages_know_no_shift_and_standardised_ones_no_scale(
    values: list[float], shift: float, scale: float
) -> None:
    rewards = torch.tensor([values], dtype=torch.float64)
    for standardise in (True, False):
        advantage = group_advantage(rewards, standardise)
        torch.testing.assert_close(group_advantage(rewards + shift, standardise), advantage, rtol=1e-9, atol=1e-9)
        assert advantage.sum().item() == pytest.approx(0, abs=1e-9)
    # The epsilon is seen: by as much as it is of the standard deviation, which is > 0.003 here.
    torch.testing.assert_close(group_advantage(scale * rewards), group_advantage(rewards), rtol=5e-4, atol=1e-9)
    torch.testing.assert_close(group_advantage(scale * rewards, False), scale * group_advantage(rewards, False))


@pytest.mark.parametrize("objective", POLICY_GRADIENT)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0, 1 / 3])
@pytest.mark.parametrize("responses", [2, 3, 7])
def test_equal_rewards_teach_exactly_nothing(objective: type[PolicyGradient], reward: float, responses: int) -> None:
    """Exactly 0, without a rounding error. (DAPO without the penalty, which depends on the lengths.)"""
    groups = random_groups(responses=responses)
    groups = replace(
        groups, rewards=torch.full((6, responses), reward), positive=torch.full((6, responses), reward == 1)
    )
    loss = objective() if objective is DAPO else build(objective)
    value, gradient = value_and_gradient(loss, groups)
    assert value == 0 and gradient.abs().sum() == 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("k", [2, 3, 6])
def test_max_rl_is_unbiased_for_the_first_terms_of_the_log_likelihood(p: float, k: int) -> None:
    """Responses of one token, correct with probability p: over all 2^K groups, weighted by their probability, the
    gradient is that of the first K - 1 terms of log p = -sum over j of (1 - p)^j / j, sum of (1 - p)^(j - 1)."""
    logit = torch.tensor(math.log(p / (1 - p)), dtype=torch.float64, requires_grad=True)
    right, wrong = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
    outcomes = torch.tensor(list(itertools.product([False, True], repeat=k)))
    log_probs = torch.where(outcomes, right, wrong).unsqueeze(-1)
    probability = log_probs.detach().sum((1, 2)).exp()
    expected_loss = torch.zeros((), dtype=torch.float64)
    for group, chance in zip(range(len(outcomes)), probability, strict=True):
        rows = slice(group, group + 1)
        groups = ResponseTensors(
            log_probs[rows],
            log_probs.detach()[rows],
            torch.ones(1, k, 1, dtype=torch.bool),
            outcomes[rows].double(),
            outcomes[rows],
        )
        expected_loss = expected_loss + chance * MaxRL().loss(groups, totals_of(groups))
    (gradient,) = torch.autograd.grad(expected_loss, logit)
    derivative = sum((1 - p) ** j for j in range(k - 1)) * p * (1 - p)
    assert gradient.item() == pytest.approx(-derivative)


# ---- the overlong penalty ------------------------------------------------------------------------------------------


def test_the_overlong_penalty_by_hand() -> None:
    """DAPO, Eq. (13), with L_max = 20,480 tokens, including a buffer of 4,096."""
    lengths = torch.tensor([[1, 16_383, 16_384, 16_385, 18_432, 20_480]])
    expected = [0, 0, 0, -1 / 4096, -0.5, -1]
    assert overlong_penalty(lengths, 20_480, 4096)[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_a_response_in_the_buffer_is_pushed_down() -> None:
    """Of equally good responses, those that are too long; of none, without the penalty or below the buffer."""
    groups = replace(random_groups(prompts=1, scale=0.0), rewards=torch.ones(1, 5, dtype=torch.float64))
    lengths = torch.tensor([[2, 5, 7, 9, 4]])
    groups = replace(groups, mask=torch.arange(9) < lengths.unsqueeze(-1))
    _, gradient = value_and_gradient(DAPO(overlong_buffer=4, max_response_tokens=9), groups)
    # Descent moves against the gradient: up (-) or down (+), the longest furthest.
    advantages = standardised([1, 1, 0.5, 0, 1])
    assert gradient[0, :, 0].tolist() == pytest.approx([-advantage / 27 for advantage in advantages])
    assert advantages[3] < advantages[2] < 0 < advantages[0]
    for harmless in (DAPO(), DAPO(overlong_buffer=4, max_response_tokens=13)):
        assert value_and_gradient(harmless, groups)[1].abs().sum() == 0


# ---- clipping ------------------------------------------------------------------------------------------------------


def test_clipping_by_hand() -> None:
    """clip_low 0.2, clip_high 0.5: a good response stops counting above, a bad one below, neither the other way."""
    ratios = [0.1, 0.7, 0.9, 1.4, 1.6, 9.0]
    log_ratio = torch.tensor([ratios, ratios], dtype=torch.float64).log().requires_grad_()
    losses = clipped_surrogate(log_ratio, torch.tensor([[2.0], [-2.0]], dtype=torch.float64), 0.2, 0.5)
    (gradient,) = torch.autograd.grad(losses.sum(), log_ratio)
    assert losses[0].tolist() == pytest.approx([-0.2, -1.4, -1.8, -2.8, -3, -3])
    assert losses[1].tolist() == pytest.approx([1.6, 1.6, 1.8, 2.8, 3.2, 18])
    assert gradient[0].tolist() == pytest.approx([-0.2, -1.4, -1.8, -2.8, 0, 0])
    assert gradient[1].tolist() == pytest.approx([0, 0, 1.8, 2.8, 3.2, 18])


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_ratios_stay_finite(advantage: float, dtype: torch.dtype) -> None:
    log_ratio = torch.tensor([[-math.inf, -1e4, 0.0, 50.0, 1e4]], dtype=dtype, requires_grad=True)
    losses = clipped_surrogate(log_ratio, torch.tensor([[advantage]], dtype=dtype), 0.2, 0.2)
    (gradient,) = torch.autograd.grad(losses.sum(), log_ratio)
    assert losses.isfinite().all() and gradient.isfinite().all()
    assert gradient[0, 2] == -advantage and gradient[0, [0, 1, 3, 4]].abs().sum() == 0


@pytest.mark.parametrize("objective", POLICY_GRADIENT)
@given(seed=st.integers(0, 10_000))
def test_clip_share_is_the_share_of_tokens_without_a_gradient(objective: type[PolicyGradient], seed: int) -> None:
    groups = random_groups(prompts=3, seed=seed)
    loss = build(objective)
    _, gradient = value_and_gradient(loss, groups)
    informative = (loss.advantage(groups) != 0).unsqueeze(-1) & groups.mask
    expected = (informative & (gradient == 0)).sum() / groups.mask.sum()
    torch.testing.assert_close(loss.metrics(groups, totals_of(groups))["clip_share"], expected)


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip_low", "clip_high"), [(0, 0.2), (1.1, 0.2), (0.2, 0), (-0.1, 0.2)])
def test_clipping_that_makes_no_sense_is_refused(clip_low: float, clip_high: float) -> None:
    with pytest.raises(UserError, match=r"need 0 < clip_low <= 1 and clip_high > 0"):
        GRPO(clip_low=clip_low, clip_high=clip_high)


def test_lengths_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"set it to data\.sampling\.max_response_tokens"):
        DAPO(overlong_buffer=4)
    for buffer in (0, -1, 10):
        with pytest.raises(UserError, match=rf"overlong_buffer is {buffer}; need 0 < overlong_buffer .* \(9;"):
            DAPO(overlong_buffer=buffer, max_response_tokens=9)
    with pytest.raises(UserError, match="max_response_tokens is 0"):
        DrGRPO(max_response_tokens=0)
