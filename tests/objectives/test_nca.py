"""InfoNCA and NCA of Chen et al. (2024): the equations written out, their limits, and how they differ."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import assert_same, random_groups, value_and_gradient
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives import NCA, InfoNCA, ResponseTensors, info_nca, nca, softmax_contrast

Loss = Callable[[Tensor, Tensor, float], Tensor]


def soft_labels(rewards: list[float], temperature: float) -> list[float]:
    top = max(rewards)
    weights = [math.exp((reward - top) / temperature) for reward in rewards]
    return [weight / sum(weights) for weight in weights]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def naive_info_nca(scores: list[float], rewards: list[float], temperature: float) -> float:
    top = max(scores)
    z = top + math.log(sum(math.exp(score - top) for score in scores))
    labels = soft_labels(rewards, temperature)
    return -sum(label * (score - z) for label, score in zip(labels, scores, strict=True))


def naive_nca(scores: list[float], rewards: list[float], temperature: float) -> float:
    total = 0.0
    for label, score in zip(soft_labels(rewards, temperature), scores, strict=True):
        total -= label * log_sigmoid(score) + log_sigmoid(-score) / len(scores)
    return total


responses = st.lists(st.tuples(st.floats(-40, 40), st.floats(-1, 1)), min_size=1, max_size=8)


@given(responses, st.floats(0.05, 10))
def test_losses_are_the_equations_written_out(group: list[tuple[float, float]], temperature: float) -> None:
    scores, rewards = [list(column) for column in zip(*group, strict=True)]
    batch = torch.tensor([scores] * 2, dtype=torch.float64), torch.tensor([rewards] * 2, dtype=torch.float64)
    assert info_nca(*batch, temperature).tolist() == pytest.approx([naive_info_nca(scores, rewards, temperature)] * 2)
    assert nca(*batch, temperature).tolist() == pytest.approx([naive_nca(scores, rewards, temperature)] * 2)


def naive(groups: ResponseTensors, beta: float, temperature: float, single: bool) -> Tensor:
    """The loss of the update token by token, from autograd scalars."""
    total = torch.zeros((), dtype=torch.float64)
    prompts, responses, tokens = groups.log_probs.shape
    for p in range(prompts):
        scores = []
        for k in range(responses):
            here = [t for t in range(tokens) if groups.mask[p, k, t]]
            scores.append(beta * sum(groups.log_probs[p, k, t] - groups.old_log_probs[p, k, t] for t in here))
        labels = soft_labels(groups.rewards[p].tolist(), temperature)
        z = sum(torch.exp(score) for score in scores)
        for label, score in zip(labels, scores, strict=True):
            if single:
                sigmoid = 1 / (1 + torch.exp(-score))
                total = total - label * torch.log(sigmoid) - torch.log(1 - sigmoid) / responses
            else:
                total = total - label * torch.log(torch.exp(score) / z)
    return total / prompts


@pytest.mark.parametrize(("objective", "single"), [(InfoNCA, False), (NCA, True)])
@pytest.mark.parametrize("seed", range(3))
def test_the_objectives_are_the_equations_token_by_token(
    objective: type[InfoNCA] | type[NCA], single: bool, seed: int
) -> None:
    groups = random_groups(seed=seed)
    expected = naive(groups, 0.2, 0.3, single)
    (gradient,) = torch.autograd.grad(expected, groups.log_probs)
    actual = value_and_gradient(objective(beta=0.2, reward_temperature=0.3), groups)
    assert_same(actual, (expected.detach(), gradient), "not the equation, or a margin without being asked for")


@pytest.mark.parametrize("loss", [info_nca, nca])
def test_gradients_are_finite_differences(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 6, dtype=torch.float64, generator=generator).requires_grad_()
    rewards = torch.rand(3, 6, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda s: loss(s, rewards, 0.2), scores)


def test_gradients_at_pi_old_are_the_closed_forms() -> None:
    """Where all scores are 0, InfoNCA's gradient is 1/K - label, NCA's half of that: both pull towards the labels."""
    rewards = torch.tensor([[1, 1, 0.1, 0]], dtype=torch.float64)
    labels = soft_labels(rewards[0].tolist(), 0.5)
    for loss, factor in ((info_nca, 1.0), (nca, 0.5)):
        scores = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(scores, rewards, 0.5).sum(), scores)
        assert gradient[0].tolist() == pytest.approx([factor * (0.25 - label) for label in labels])


def test_info_nca_of_a_cold_temperature_is_the_softmax_contrast() -> None:
    """With rewards of 1 and 0 the labels become uniform over the positives, and the loss that of Table 4's Softmax."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    positive = torch.rand(20, 6, generator=generator) < 0.5
    positive[:, 0] = True
    loss = info_nca(scores, positive.double(), 1e-3)
    torch.testing.assert_close(loss, softmax_contrast(scores, positive))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [info_nca, nca])
def test_extreme_scores_stay_finite(loss: Loss, dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4]], dtype=dtype, requires_grad=True)
    value = loss(scores, torch.tensor([[0.0, 1.0]], dtype=dtype), 1e-3)
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    assert value.item() == pytest.approx({info_nca: 20_000, nca: 15_000}[loss], rel=1e-6)
    assert gradient[0].tolist() == pytest.approx({info_nca: [1, -1], nca: [0.5, -1]}[loss])


@pytest.mark.parametrize("objective", [InfoNCA, NCA])
@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_reward_temperature_must_be_positive(objective: type[InfoNCA], temperature: float) -> None:
    with pytest.raises(UserError, match=f"reward_temperature is {temperature}; it must be > 0"):
        objective(reward_temperature=temperature)
