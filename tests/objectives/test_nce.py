"""mNCE and its softmax ablation: closed forms, a loop written from the equation, float64 derivatives, invariances."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import CONTRASTIVE, build, part, totals_of, value_and_gradient
from objective_groups import random_groups as graded_groups

from rence_lightning.errors import UserError
from rence_lightning.objectives import (
    NCA,
    MultiLabelNCE,
    ResponseTensors,
    SoftmaxContrast,
    multi_label_nce,
    softmax_contrast,
)

REWARDS = torch.tensor([[1, 1, 0.1, 0.1, 0.1, 0, 0, 0]], dtype=torch.float64)
POSITIVE = REWARDS == 1


def naive(scores: list[float], positive: list[bool], other_positives: bool) -> float:
    """Eq. (1) as printed, one positive and one denominator at a time."""
    terms = []
    for index, score in enumerate(scores):
        if positive[index]:
            rivals = [s for i, s in enumerate(scores) if i == index or not positive[i] or other_positives]
            top = max(rivals)
            terms.append(top + math.log(sum(math.exp(rival - top) for rival in rivals)) - score)
    return sum(terms) / len(terms) if terms else 0.0


groups = st.integers(2, 8).flatmap(
    lambda k: st.lists(
        st.tuples(
            st.lists(st.floats(-30, 30), min_size=k, max_size=k), st.lists(st.booleans(), min_size=k, max_size=k)
        ),
        min_size=1,
        max_size=4,
    )
)


@given(groups)
def test_losses_are_the_equation_written_out(batch: list[tuple[list[float], list[bool]]]) -> None:
    scores = torch.tensor([scores for scores, _ in batch], dtype=torch.float64)
    positive = torch.tensor([positive for _, positive in batch])
    for loss, other_positives in ((multi_label_nce, False), (softmax_contrast, True)):
        expected = [naive(scores, positive, other_positives) for scores, positive in batch]
        torch.testing.assert_close(loss(scores, positive), torch.tensor(expected, dtype=torch.float64))


@given(groups, st.floats(-50, 50), st.randoms(use_true_random=False))
def test_losses_know_neither_the_order_of_a_group_nor_a_shift_of_its_scores(
    batch: list[tuple[list[float], list[bool]]], shift: float, random: object
) -> None:
    scores = torch.tensor([scores for scores, _ in batch], dtype=torch.float64)
    positive = torch.tensor([positive for _, positive in batch])
    order = list(range(scores.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    for loss in (multi_label_nce, softmax_contrast):
        torch.testing.assert_close(loss(scores[:, order] + shift, positive[:, order]), loss(scores, positive))


def test_loss_and_gradient_at_pi_old_are_the_closed_form() -> None:
    """Where pi = pi_old the scores are the margins alone. With w = e^(alpha gap) and Z = 1 + sum over N of w, the loss
    is log Z, dL/ds is -(1 - 1/Z)/|P| on a positive and w/Z on a negative."""
    alpha = 0.5
    scores = (alpha * (1 - REWARDS)).requires_grad_()
    loss = multi_label_nce(scores, POSITIVE)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    weights = [math.exp(alpha * 0.9)] * 3 + [math.exp(alpha)] * 3
    z = 1 + sum(weights)
    assert loss.item() == pytest.approx(math.log(z)) == pytest.approx(2.3657, abs=1e-4)
    expected = [-(1 - 1 / z) / 2] * 2 + [weight / z for weight in weights]
    assert gradient[0].tolist() == pytest.approx(expected)
    assert sum(expected) == pytest.approx(0), "a shift of all scores must not change the loss"
    assert gradient[0, 7] / gradient[0, 2] == pytest.approx(math.exp(alpha * 0.1)), "worse negatives are pushed more"


@pytest.mark.parametrize("loss", [multi_label_nce, softmax_contrast])
@pytest.mark.parametrize("positives", [0, 1, 2, 5, 8])
def test_gradients_are_finite_differences(loss: object, positives: int) -> None:
    scores = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    positive = (torch.arange(8) < positives).expand(3, 8)
    assert torch.autograd.gradcheck(lambda s: loss(s, positive), scores)  # type: ignore[operator]


COEFFICIENTS = [(2, -0.454, -0.416), (4, -0.217, -0.156), (6, -0.128, -0.059)]


@pytest.mark.parametrize(("positives", "nce", "softmax"), COEFFICIENTS)
def test_softmax_is_the_same_loss_only_for_one_positive(positives: int, nce: float, softmax: float) -> None:
    """The coefficients of a positive at pi_old, alpha 0.5, all negatives without a reward: -(1 - 1/Z)/|P| with
    Z = 1 + |N| e^alpha, and 1/Z - 1/|P| with Z = |P| + |N| e^alpha."""
    negatives = (8 - positives) * math.exp(0.5)
    assert nce == pytest.approx(-(1 - 1 / (1 + negatives)) / positives, abs=5e-4)
    assert softmax == pytest.approx(1 / (positives + negatives) - 1 / positives, abs=5e-4)
    gaps = [0.0] * positives + [1.0] * (8 - positives)
    scores = torch.tensor([[0.5 * gap for gap in gaps]], dtype=torch.float64, requires_grad=True)
    positive = torch.arange(8).unsqueeze(0) < positives
    for loss, expected in ((multi_label_nce, nce), (softmax_contrast, softmax)):
        (gradient,) = torch.autograd.grad(loss(scores, positive).sum(), scores)
        assert gradient[0, :positives].tolist() == pytest.approx([expected] * positives, abs=5e-4)
    single = torch.arange(8).unsqueeze(0) < 1
    values = [loss(scores, single) for loss in (multi_label_nce, softmax_contrast)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), scores)[0] for value in values))


@pytest.mark.parametrize("scale", [1, 1e4])
def test_without_positives_or_negatives_there_is_nothing_to_learn(scale: float) -> None:
    scores = (scale * torch.tensor([[1.0, -1.0, 0.5, -0.5]] * 2)).requires_grad_()
    positive = torch.tensor([[False] * 4, [True] * 4])
    loss = multi_label_nce(scores, positive)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.tolist() == [0, 0]
    assert gradient.abs().sum() == 0
    softmax = softmax_contrast(scores, positive)
    (gradient,) = torch.autograd.grad(softmax.sum(), scores)
    assert softmax[0] == 0 and gradient[0].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scores_stay_finite(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    positive = torch.tensor([[True, True, False, False]])
    # The first positive draws level with the best negative; the second is 20,000 nats behind it, and in the softmax's
    # denominator it finds the first positive, too.
    for loss, expected in (
        (multi_label_nce(scores, positive), (math.log(2) + 20_000) / 2),
        (softmax_contrast(scores, positive), (math.log(2) + 20_000 + math.log(2)) / 2),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), scores)
        assert loss.isfinite().all() and gradient.isfinite().all()
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        assert gradient[0, 1].item() == pytest.approx(-0.5), "a hopeless positive is pulled up in full"
        assert gradient[0, 3].item() == 0, "a hopeless negative is left alone"


# ---- the objective classes ----------------------------------------------------------------------------------------


def random_groups(prompts: int = 5, responses: int = 4, tokens: int = 7) -> ResponseTensors:
    generator = torch.Generator().manual_seed(3)
    shape = (prompts, responses, tokens)
    lengths = torch.randint(1, tokens + 1, shape[:2], generator=generator)
    rewards = torch.tensor([1.0, 1.0, 0.1, 0.0], dtype=torch.float64).expand(prompts, responses)
    return ResponseTensors(
        log_probs=torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(),
        old_log_probs=torch.randn(shape, generator=generator, dtype=torch.float64),
        mask=torch.arange(tokens) < lengths.unsqueeze(-1),
        rewards=rewards,
        positive=rewards == 1,
        seeds=tuple(range(prompts)),
    )


@pytest.mark.parametrize("margin", ["adaptive", "constant", "none"])
@pytest.mark.parametrize("objective", [MultiLabelNCE, SoftmaxContrast])
def test_scores_are_equation_2_and_shares_add_up(objective: type[MultiLabelNCE], margin: str) -> None:
    groups = random_groups()
    loss = objective(beta=0.2, alpha=0.7, margin=margin)  # type: ignore[arg-type]
    expected = []
    for prompt in range(5):
        scores = []
        for response in range(4):
            length = int(groups.mask[prompt, response].sum())
            ratio = sum(
                float(groups.log_probs.detach()[prompt, response, t] - groups.old_log_probs[prompt, response, t])
                for t in range(length)
            )
            gap = {"adaptive": (0, 0, 0.9, 1.0), "constant": (0, 0, 1, 1), "none": (0, 0, 0, 0)}[margin][response]
            scores.append(0.2 * ratio + 0.7 * gap)
        expected.append(naive(scores, [True, True, False, False], objective is SoftmaxContrast))
    whole = loss.loss(groups, totals_of(groups))
    assert whole.item() == pytest.approx(sum(expected) / 5)
    shares = [loss.loss(part(groups, rows), totals_of(groups)) for rows in ([0], [1, 2, 3], [4])]
    assert sum(share.item() for share in shares) == pytest.approx(whole.item())


@pytest.mark.parametrize("objective", [MultiLabelNCE, SoftmaxContrast])
@pytest.mark.parametrize("beta", [0, -0.1])
def test_beta_must_be_positive(objective: type[MultiLabelNCE], beta: float) -> None:
    with pytest.raises(UserError, match=f"beta is {beta}.*beta > 0"):
        objective(beta=beta)


def test_an_unknown_margin_is_refused() -> None:
    with pytest.raises(UserError, match="one of adaptive, constant, none"):
        MultiLabelNCE(margin="adaptve")  # type: ignore[arg-type]


# ---- every contrastive objective -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", CONTRASTIVE)
@given(seed=st.integers(0, 10_000), shift=st.floats(-20, 20))
def test_contrasts_know_no_shift_of_the_scores_but_nca(objective: type[Any], seed: int, shift: float) -> None:
    groups, loss = graded_groups(seed=seed), build(objective)
    scores = loss.scores(groups).detach().requires_grad_()
    losses, shifted = loss.contrast(scores, groups), loss.contrast(scores + shift, groups)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert losses.shape == (6,) and (losses >= 0).all()
    if objective is NCA:
        # It judges each response by itself, which a common factor of all likelihoods must move.
        assert abs(shift) < 0.1 or not torch.allclose(shifted, losses)
    else:
        torch.testing.assert_close(shifted, losses, rtol=1e-9, atol=1e-7)
        torch.testing.assert_close(gradient.sum(-1), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("objective", CONTRASTIVE)
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5))
def test_contrasts_know_no_shift_of_the_rewards(objective: type[Any], seed: int, shift: float) -> None:
    groups, loss = graded_groups(seed=seed), build(objective, margin="adaptive")
    actual = value_and_gradient(loss, replace(groups, rewards=groups.rewards + shift))
    for value, expected in zip(actual, value_and_gradient(loss, groups), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("margin", ["adaptive", "constant", "none"])
@pytest.mark.parametrize("objective", CONTRASTIVE)
def test_a_margin_acts_like_so_much_more_log_ratio(objective: type[Any], margin: str) -> None:
    """alpha m more score is what a first token likelier by alpha m / beta gives without a margin."""
    groups = random_groups()
    gap = {"adaptive": [0, 0, 0.9, 1], "constant": [0, 0, 1, 1], "none": [0, 0, 0, 0]}[margin]
    likelier = groups.log_probs.detach().clone()
    likelier[:, :, 0] += 0.7 / 0.2 * torch.tensor(gap, dtype=torch.float64)
    without = replace(groups, log_probs=likelier.requires_grad_())
    actual = value_and_gradient(objective(beta=0.2, alpha=0.7, margin=margin), groups)
    expected = value_and_gradient(objective(beta=0.2, alpha=0.7, margin="none"), without)
    torch.testing.assert_close(actual, expected)
    plain = value_and_gradient(objective(beta=0.2, alpha=0.7, margin="none"), groups)
    assert margin == "none" or actual[0] > plain[0] + 0.05 or objective is NCA, "the margin has no effect"
