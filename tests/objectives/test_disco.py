"""DisCO: the equation as a loop, its limits in tau, and its two scores."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import assert_same, random_groups, value_and_gradient
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives import DisCO, ResponseTensors, disco
from rence_lightning.objectives.disco import Score


def naive(scores: Sequence[float], positive: Sequence[bool], tau: float | None) -> float:
    """tau log mean over N of e^(s / tau), minus the mean over P, with math's functions alone."""
    good = [score for score, is_good in zip(scores, positive, strict=True) if is_good]
    bad = [score for score, is_good in zip(scores, positive, strict=True) if not is_good]
    if not good or not bad:
        return 0.0
    if tau is None:
        return sum(bad) / len(bad) - sum(good) / len(good)
    top = max(bad)
    soft = top + tau * math.log(sum(math.exp((score - top) / tau) for score in bad) / len(bad))
    return soft - sum(good) / len(good)


groups_of_scores = st.integers(1, 8).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-40, 40), min_size=k, max_size=k), st.lists(st.booleans(), min_size=k, max_size=k)
    )
)


@given(groups_of_scores, st.none() | st.floats(0.05, 50))
def test_the_loss_is_the_equation_written_out(group: tuple[list[float], list[bool]], tau: float | None) -> None:
    scores, positive = group
    batch = torch.tensor([scores] * 2, dtype=torch.float64), torch.tensor([positive] * 2)
    assert disco(*batch, tau).tolist() == pytest.approx([naive(scores, positive, tau)] * 2, abs=1e-9)


@given(groups_of_scores, st.none() | st.floats(0.1, 20), st.floats(-20, 20), st.randoms(use_true_random=False))
def test_the_loss_knows_neither_the_order_of_a_group_nor_a_shift_of_its_scores(
    group: tuple[list[float], list[bool]], tau: float | None, shift: float, random: object
) -> None:
    scores, positive = torch.tensor([group[0]], dtype=torch.float64), torch.tensor([group[1]])
    order = list(range(scores.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = disco(scores[:, order] + shift, positive[:, order], tau)
    torch.testing.assert_close(moved, disco(scores, positive, tau), rtol=1e-7, atol=1e-9)


def naive_objective(groups: ResponseTensors, score: Score, tau: float | None) -> Tensor:
    """The loss of the update token by token, from autograd scalars."""
    total = torch.zeros((), dtype=torch.float64)
    prompts, responses, tokens = groups.log_probs.shape
    for p in range(prompts):
        good, bad = [], []
        for k in range(responses):
            here = [t for t in range(tokens) if groups.mask[p, k, t]]
            if score == "log_likelihood":
                terms = [groups.log_probs[p, k, t] for t in here]
            else:
                terms = [torch.exp(groups.log_probs[p, k, t]) / torch.exp(groups.old_log_probs[p, k, t]) for t in here]
            (good if groups.positive[p, k] else bad).append(sum(terms) / len(terms))
        if good and bad:
            if tau is None:
                soft = sum(bad) / len(bad)
            else:
                soft = tau * torch.log(sum(torch.exp(each / tau) for each in bad) / len(bad))
            total = total + soft - sum(good) / len(good)
    return total / prompts


@pytest.mark.parametrize("score", ["log_likelihood", "likelihood_ratio"])
@pytest.mark.parametrize("tau", [None, 0.2, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_the_equation_token_by_token(score: Score, tau: float | None, seed: int) -> None:
    groups = random_groups(seed=seed)
    expected = naive_objective(groups, score, tau)
    (gradient,) = torch.autograd.grad(expected, groups.log_probs)
    actual = value_and_gradient(DisCO(score, tau), groups)
    assert_same(actual, (expected.detach(), gradient), "not the equation")


@pytest.mark.parametrize("tau", [None, 0.3])
@pytest.mark.parametrize("positives", [0, 1, 3, 6])
def test_gradients_are_finite_differences(tau: float | None, positives: int) -> None:
    scores = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    positive = (torch.arange(6) < positives).expand(3, 6)
    assert torch.autograd.gradcheck(lambda s: disco(s, positive, tau), scores)


def test_the_gradient_is_a_softmax_over_the_negatives_and_the_mean_over_the_positives() -> None:
    """As in the authors' code: -1/|P| on each positive, softmax(s / tau) over the negatives."""
    scores = torch.tensor([[0.5, 0.1, 2.0, -1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[True, True, False, False, False]])
    (gradient,) = torch.autograd.grad(disco(scores, positive, 0.5).sum(), scores)
    weights = [math.exp(score / 0.5) for score in (2.0, -1.0, 0.0)]
    expected = [-0.5, -0.5, *(weight / sum(weights) for weight in weights)]
    assert gradient[0].tolist() == pytest.approx(expected)


def test_the_limits_of_tau_are_the_mean_and_the_hardest_negative() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    positive = torch.rand(20, 6, generator=generator) < 0.5
    positive[:, 0], positive[:, 1] = True, False
    torch.testing.assert_close(disco(scores, positive, 1e7), disco(scores, positive, None), rtol=1e-5, atol=1e-6)
    hardest = scores.masked_fill(positive, -math.inf).amax(-1)
    mean = scores.masked_fill(~positive, 0).sum(-1) / positive.sum(-1)
    torch.testing.assert_close(disco(scores, positive, 1e-4), hardest - mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [None, 1e-3, 10.0])
def test_extreme_scores_stay_finite(tau: float | None, dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4, 1e4, -1e4]] * 3, dtype=dtype, requires_grad=True)
    positive = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    loss = disco(scores, positive, tau)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.isfinite().all() and gradient.isfinite().all()
    assert loss[1:].tolist() == [0, 0] and gradient[1:].abs().sum() == 0, "without a contrast there is nothing to learn"
    assert gradient[0].tolist() == pytest.approx([-0.5, -0.5, *([0.5, 0.5] if tau is None else [1, 0])])


def test_extreme_ratios_stay_finite() -> None:
    groups = random_groups(scale=1e3)
    value, gradient = value_and_gradient(DisCO("likelihood_ratio", 1.0), groups)
    assert value.isfinite() and gradient.isfinite().all()


def test_settings_that_make_no_sense_are_refused() -> None:
    for tau in (0.0, -1.0, math.inf):
        with pytest.raises(UserError, match=f"tau is {tau}; it must be > 0"):
            DisCO(tau=tau)
    with pytest.raises(UserError, match="one of log_likelihood, likelihood_ratio"):
        DisCO("ratio")  # type: ignore[arg-type]
