"""PACS: the equations as a loop, the authors' class weights, and what it keeps of pi_old."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import assert_same, random_groups, value_and_gradient
from torch import Tensor

from rence_lightning.objectives import PACS, ResponseTensors, pacs


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def class_weight(positive: Sequence[bool], label: bool) -> float:
    """Number of responses over (number of classes times those of the class), and 1 where there is one class only."""
    classes = set(positive)
    return 1.0 if len(classes) == 1 else len(positive) / (len(classes) * sum(each == label for each in positive))


def naive(scores: Sequence[float], positive: Sequence[bool], balanced: bool) -> float:
    """Eqs. (6) and (8), one response at a time, with math's functions alone."""
    total = 0.0
    for i, (score, label) in enumerate(zip(scores, positive, strict=True)):
        psi = score - sum(other for j, other in enumerate(scores) if j != i) / (len(scores) - 1)
        weight = class_weight(positive, label) if balanced else 1.0
        total -= weight * (log_sigmoid(psi) if label else log_sigmoid(-psi))
    return total / len(scores)


groups_of_scores = st.integers(2, 8).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-40, 40), min_size=k, max_size=k), st.lists(st.booleans(), min_size=k, max_size=k)
    )
)


@given(groups_of_scores, st.booleans())
def test_the_loss_is_the_equation_written_out(group: tuple[list[float], list[bool]], balanced: bool) -> None:
    scores, positive = group
    batch = torch.tensor([scores] * 2, dtype=torch.float64), torch.tensor([positive] * 2)
    assert pacs(*batch, balanced).tolist() == pytest.approx([naive(scores, positive, balanced)] * 2, abs=1e-9)


def naive_objective(groups: ResponseTensors, beta: float, balanced: bool) -> Tensor:
    """The loss of the update token by token, from autograd scalars."""
    total = torch.zeros((), dtype=torch.float64)
    prompts, responses, tokens = groups.log_probs.shape
    for p in range(prompts):
        positive = groups.positive[p].tolist()
        proxies = []
        for k in range(responses):
            here = [t for t in range(tokens) if groups.mask[p, k, t]]
            proxies.append(beta * sum(groups.log_probs[p, k, t] - groups.old_log_probs[p, k, t] for t in here))
        for k, label in enumerate(positive):
            psi = proxies[k] - sum(proxies[j] for j in range(responses) if j != k) / (responses - 1)
            probability = 1 / (1 + torch.exp(-psi))
            weight = class_weight(positive, label) if balanced else 1.0
            total = total - weight * torch.log(probability if label else 1 - probability) / responses
    return total / prompts


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_the_equation_token_by_token(balanced: bool, seed: int) -> None:
    groups = random_groups(seed=seed)
    expected = naive_objective(groups, 0.7, balanced)
    (gradient,) = torch.autograd.grad(expected, groups.log_probs)
    actual = value_and_gradient(PACS(beta=0.7, balanced=balanced), groups)
    assert_same(actual, (expected.detach(), gradient), "not the equation, or a margin without being asked for")


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("positives", [0, 1, 4, 6])
def test_gradients_are_finite_differences(balanced: bool, positives: int) -> None:
    scores = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    positive = (torch.arange(6) < positives).expand(3, 6)
    assert torch.autograd.gradcheck(lambda s: pacs(s, positive, balanced), scores)


def test_at_pi_old_the_gradient_is_that_of_balanced_classes() -> None:
    """All logits are 0 and the residual is 1/2: of dpsi_i/ds_i = 1 and dpsi_j/ds_i = -1/(K - 1), a positive gets
    -(w/2K)(1 + ...) and the gradient of a group is 0 in sum."""
    scores = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[True, False, False, False]])
    (gradient,) = torch.autograd.grad(pacs(scores, positive, True).sum(), scores)
    # Weights 4/2 = 2 and 4/6; residuals by the logits: -2/8 on the positive, (2/3)/8 on each negative.
    residuals = [-0.25, 1 / 12, 1 / 12, 1 / 12]
    expected = [r - (sum(residuals) - r) / 3 for r in residuals]
    assert gradient[0].tolist() == pytest.approx(expected)
    assert sum(expected) == pytest.approx(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scores_stay_finite(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4, 1e4, -1e4], [1e4] * 4, [0.0] * 4], dtype=dtype, requires_grad=True)
    positive = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    loss = pacs(scores, positive, True)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.isfinite().all() and gradient.isfinite().all()
    # Logits of 40,000 / 3 ahead or behind: one wrong positive and one wrong negative of four.
    assert loss[0].item() == pytest.approx(2 * 40_000 / 3 / 4, rel=1e-6)


def test_a_group_of_one_response_has_a_loss() -> None:
    """Where a filter has left one response only, nothing is subtracted from its score."""
    scores = torch.tensor([[0.3]], dtype=torch.float64)
    assert pacs(scores, torch.tensor([[True]]), True).item() == pytest.approx(-log_sigmoid(0.3))
