"""KL estimators against an enumerated KL, and the adaptive coefficient against Ziegler et al.'s rule."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.objectives import ResponseTensors, Totals
from rence_lightning.objectives.trust_region import TrustRegion, adapt_kl_coef, kl_estimate

OLD = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def new_policy() -> torch.Tensor:
    return torch.tensor([0.1, -0.4, 0.3, 0.8], dtype=torch.float64, requires_grad=True)


def test_k1_and_k3_are_unbiased_under_pi_old() -> None:
    """Summed over all outcomes with pi_old's probabilities they are KL(pi_old || pi_theta), not its reverse."""
    log_new = new_policy().log_softmax(-1)
    exact = (OLD * (OLD.log() - log_new)).sum()
    reverse = (log_new.exp() * (log_new - OLD.log())).sum()
    assert abs(exact - reverse) > 0.01, "the test needs two directions that differ"
    for estimator in ("k1", "k3"):
        expectation = (OLD * kl_estimate(log_new - OLD.log(), estimator)).sum()
        assert expectation.item() == pytest.approx(exact.item())


def test_the_gradient_of_k3_is_that_of_the_exact_kl() -> None:
    for estimator in ("k1", "k3"):
        logits = new_policy()
        exact = (OLD * (OLD.log() - logits.log_softmax(-1))).sum()
        (expected,) = torch.autograd.grad(exact, logits)
        estimate = (OLD * kl_estimate(logits.log_softmax(-1) - OLD.log(), estimator)).sum()
        (gradient,) = torch.autograd.grad(estimate, logits)
        torch.testing.assert_close(gradient, expected)


def test_token_estimates_add_up_to_the_kl_of_whole_responses() -> None:
    """Three tokens from three, each distribution a function of its prefix: all 27 responses, weighted by pi_old. The
    sum over a response's tokens must estimate the KL between the two distributions over *responses*."""
    logits = torch.randn(2, 3, 4, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    old, new = logits.log_softmax(-1)  # `[position, last token + 1, last but one + 1]` -> next token
    exact = torch.zeros((), dtype=torch.float64)
    ratios, weights = [], []
    for response in itertools.product(range(3), repeat=3):
        prefix = (-1, -1, *response)
        at = [(t, prefix[t + 1] + 1, prefix[t] + 1, response[t]) for t in range(3)]
        log_old, log_new = (torch.stack([policy[place] for place in at]) for policy in (old, new))
        exact += log_old.sum().exp() * (log_old.sum() - log_new.sum())
        ratios.append(log_new - log_old)
        weights.append(log_old.sum().exp())
    assert sum(weights).item() == pytest.approx(1)  # type: ignore[union-attr]
    for estimator in ("k1", "k3"):
        estimates = torch.stack([kl_estimate(ratio, estimator).sum() for ratio in ratios])
        assert (torch.stack(weights) * estimates).sum().item() == pytest.approx(exact.item()), estimator


@given(st.floats(-15, 15))
def test_estimators_of_a_single_token(log_ratio: float) -> None:
    value = torch.tensor(log_ratio, dtype=torch.float64)
    assert kl_estimate(value, "k1").item() == -log_ratio
    assert kl_estimate(value, "k2").item() == pytest.approx(log_ratio**2 / 2)
    assert kl_estimate(value, "k3").item() == pytest.approx(math.exp(log_ratio) - 1 - log_ratio, abs=1e-9)
    assert kl_estimate(value, "k3").item() >= 0


def test_k3_is_exact_next_to_pi_old_and_finite_far_from_it() -> None:
    assert kl_estimate(torch.tensor(1e-4), "k3").item() == pytest.approx(5e-9, rel=1e-2), (
        "e^x - 1 - x cancels in float32"
    )
    for dtype in (torch.float32, torch.bfloat16):
        far = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
        kl = kl_estimate(far, "k3")
        (gradient,) = torch.autograd.grad(kl.sum(), far)
        assert kl.isfinite().all() and gradient.isfinite().all(), f"{dtype} overflows far from pi_old"
        assert kl.min() > 1, "far from pi_old the penalty must not look small"


def test_reductions() -> None:
    log_probs = torch.tensor([[[0.1, 0.2, 9.0], [0.3, 9.0, 9.0]]], dtype=torch.float64)
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    groups = ResponseTensors(
        log_probs, torch.zeros_like(log_probs), mask, torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)
    )
    totals = Totals(prompts=4, responses=8, tokens=30, positives=3)
    total = sum(math.exp(x) - 1 - x for x in (0.1, 0.2, 0.3))
    assert TrustRegion(reduction="token").kl(groups, totals).item() == pytest.approx(total / 30)
    assert TrustRegion(reduction="sequence").kl(groups, totals).item() == pytest.approx(total / 8)
    assert TrustRegion(estimator="k1").kl(groups, totals).item() == pytest.approx(-0.6 / 30)
    assert TrustRegion(estimator="k2").kl(groups, totals).item() == pytest.approx((0.01 + 0.04 + 0.09) / 2 / 30)


def test_the_coefficient_moves_as_in_ziegler() -> None:
    settings = {"target_kl": 0.01, "horizon": 25600, "responses": 256}
    assert adapt_kl_coef(0.001, kl=0.01, **settings) == 0.001, "on target it stays"
    assert adapt_kl_coef(0.001, kl=0.011, **settings) == pytest.approx(0.001 * (1 + 0.1 * 0.01))
    assert adapt_kl_coef(0.001, kl=1.0, **settings) == pytest.approx(0.001 * 1.002), "clipped above"
    assert adapt_kl_coef(0.001, kl=0.0, **settings) == pytest.approx(0.001 * 0.998), "clipped below"
    assert adapt_kl_coef(0.001, kl=-5.0, **settings) == pytest.approx(0.001 * 0.998), "k1 may be negative"


def test_a_collapsed_token_is_still_pulled_back() -> None:
    log_ratio = torch.tensor(-40.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(kl_estimate(log_ratio, "k3"), log_ratio)
    assert gradient.item() == pytest.approx(-1), "d(e^x - 1 - x)/dx tends to -1, and no limit may cut it to 0"


@given(st.floats(-1, 5), st.floats(0, 2), st.floats(0, 1000))
def test_the_weight_of_kl_is_the_derivative_of_the_penalty(kl: float, limit: float, kl_coef: float) -> None:
    """Linear without a limit; the squared hinge with one: nothing within the limit."""
    value = torch.tensor(kl, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(kl_coef / 2 * (value - limit).clamp(min=0) ** 2, value)
    assert TrustRegion(kl_coef=kl_coef, delta=limit).weight(kl) == pytest.approx(slope.item())
    assert TrustRegion(kl_coef=kl_coef).weight(kl) == kl_coef


def test_negative_settings_are_refused() -> None:
    with pytest.raises(UserError, match="kl_coef"):
        TrustRegion(kl_coef=-0.1)
    with pytest.raises(UserError, match=r"delta is -0\.1; it must be >= 0"):
        TrustRegion(delta=-0.1)
