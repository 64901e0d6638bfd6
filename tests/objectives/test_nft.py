"""NFT: Eq. (10) as a loop, its gradient by hand, and what its authors prove about it."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import assert_same, random_groups, value_and_gradient
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives import GRPO, NFT, DrGRPO, ResponseTensors
from rence_lightning.objectives.nft import PromptWeight


class Maximum(torch.autograd.Function):
    """max(x, epsilon), whose gradient is that of x."""

    @staticmethod
    def forward(ctx: object, x: Tensor, epsilon: float) -> Tensor:
        return torch.tensor(max(x.item(), epsilon), dtype=torch.float64)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def naive(groups: ResponseTensors, epsilon: float, weight: PromptWeight) -> Tensor:
    """Eq. (10) token by token, from autograd scalars, with the mean over the update's tokens."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    prompts, responses, tokens = groups.log_probs.shape
    for p in range(prompts):
        q = groups.positive[p].double().mean().item()
        for k in range(responses):
            for t in range(tokens):
                if not groups.mask[p, k, t]:
                    continue
                count += 1
                if not 0 < q < 1:
                    continue
                omega = {"failures": 1 - q, "odds": math.sqrt((1 - q) / q), "none": 1.0}[weight]
                ratio = torch.exp(groups.log_probs[p, k, t]) / torch.exp(groups.old_log_probs[p, k, t])
                wrong = Maximum.apply((1 - q * ratio) / (1 - q), epsilon)
                total = total - omega * torch.log(ratio if groups.positive[p, k] else wrong)
    return total / count


@pytest.mark.parametrize("weight", ["failures", "odds", "none"])
@pytest.mark.parametrize("epsilon", [0.1, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_the_equation_token_by_token(weight: PromptWeight, epsilon: float, seed: int) -> None:
    groups = random_groups(seed=seed)
    expected = naive(groups, epsilon, weight)
    (gradient,) = torch.autograd.grad(expected, groups.log_probs)
    actual = value_and_gradient(NFT(epsilon, weight), groups)
    assert_same(actual, (expected.detach(), gradient), "not the equation")


def test_the_gradient_of_a_token_by_hand() -> None:
    """One right and one wrong response, q = 1/2, omega = 1/2, three ratios. A token of the right one has -1/2, one of
    the wrong one omega q R / (1 - q) over max((1 - q R) / (1 - q), 1): R / 2 where R > 1, R / 2 / (2 - R) below."""
    ratios = torch.tensor([[[0.5, 1.0, 1.5], [0.5, 1.0, 1.5]]], dtype=torch.float64)
    log_probs = ratios.log().requires_grad_()
    positive = torch.tensor([[True, False]])
    groups = ResponseTensors(
        log_probs, torch.zeros_like(ratios), torch.ones_like(ratios, dtype=torch.bool), positive.double(), positive
    )
    _, gradient = value_and_gradient(NFT(), groups)
    assert (6 * gradient[0, 0]).tolist() == pytest.approx([-0.5] * 3)
    assert (6 * gradient[0, 1]).tolist() == pytest.approx([0.25 / 1.5, 0.5, 0.75])


@given(st.integers(0, 10_000))
def test_at_pi_old_the_gradient_is_that_of_grpo_or_of_dr_grpo(seed: int) -> None:
    """With omega = sqrt((1 - q) / q) that of GRPO, where the standard deviation is the population's, with 1 - q that of
    Dr. GRPO. All responses are of one length here, so that the means are the same."""
    groups = random_groups(seed=seed, scale=0.0)
    positive = groups.positive
    groups = replace(groups, mask=torch.ones_like(groups.mask), rewards=positive.double())
    _, odds = value_and_gradient(NFT(prompt_weight="odds"), groups)
    _, grpo = value_and_gradient(GRPO(), groups)
    torch.testing.assert_close(odds, grpo * math.sqrt(5 / 4), rtol=1e-5, atol=1e-12)
    _, failures = value_and_gradient(NFT(prompt_weight="failures"), groups)
    _, dr_grpo = value_and_gradient(DrGRPO(max_response_tokens=9), groups)
    torch.testing.assert_close(failures, dr_grpo, rtol=1e-9, atol=1e-12)


def test_the_optimum_is_the_policy_of_correct_responses() -> None:
    """Theorem 3.1, on four responses of one token: minimised over all policies, the loss on all samples of pi_old gives
    pi_theta(y) = pi_old(y | correct). (Small logits for the wrong ones; a small epsilon, which does not interfere.)"""
    old = torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64)
    correct = torch.tensor([True, True, False, False])
    q = old[correct].sum().item()
    logits = old.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], lr=0.5, max_iter=400, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss() -> Tensor:
        optimizer.zero_grad()
        ratio = (logits.log_softmax(-1) - old.log()).exp()
        wrong = (1 - q * ratio) / (1 - q)
        value = -(old * torch.where(correct, ratio.log(), wrong.clamp(min=1e-6).log())).sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = logits.detach().softmax(-1)
    torch.testing.assert_close(found, torch.where(correct, old / q, 0.0), rtol=1e-3, atol=1e-3)
    # The objective has the same gradient there: 10 responses, in the proportions of pi_old.
    tokens = torch.tensor([0] * 4 + [1] + [2] * 3 + [3] * 2)
    near = (old * 0.98 + found * 0.02).log().requires_grad_()
    groups = ResponseTensors(
        near[tokens].view(1, 10, 1),
        old.log()[tokens].view(1, 10, 1),
        torch.ones(1, 10, 1, dtype=torch.bool),
        correct[tokens].double().unsqueeze(0),
        correct[tokens].unsqueeze(0),
    )
    _, gradient = value_and_gradient(NFT(epsilon=1e-6, prompt_weight="none"), groups, leaf=near)
    ratio = near.exp() / old
    expected = torch.where(correct, -old, old * q * ratio / (1 - q * ratio))
    torch.testing.assert_close(gradient, expected.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_ratios_stay_finite(dtype: torch.dtype) -> None:
    log_ratio = torch.tensor([[[-1e4, 0.0, 50.0, 1e4]] * 2] * 3, dtype=dtype, requires_grad=True)
    positive = torch.tensor([[True, False], [True, True], [False, False]])
    groups = ResponseTensors(
        log_ratio,
        torch.zeros_like(log_ratio),
        torch.ones_like(log_ratio, dtype=torch.bool),
        positive.to(dtype),
        positive,
    )
    for weight in ("failures", "odds", "none"):
        value, gradient = value_and_gradient(NFT(prompt_weight=weight), groups)  # type: ignore[arg-type]
        assert value.isfinite() and gradient.isfinite().all()
        assert gradient[1:].abs().sum() == 0, "a group without a wrong or without a right response teaches something"


def test_settings_that_make_no_sense_are_refused() -> None:
    for epsilon in (0.0, -1.0):
        with pytest.raises(UserError, match=f"epsilon is {epsilon}; it must be > 0"):
            NFT(epsilon=epsilon)
    with pytest.raises(UserError, match="one of failures, odds, none"):
        NFT(prompt_weight="all")  # type: ignore[arg-type]
