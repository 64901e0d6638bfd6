"""DPO on the pairs of a group: a double loop over P and N, what a pair drawn at random may be, and how often."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import random_groups, totals_of
from torch import Tensor

from rence_lightning.objectives import RandomPair, ResponseTensors, all_pairs, multi_label_nce, random_pair


def pair_losses(scores: list[float], positive: list[bool]) -> list[float]:
    """-log sigmoid(s(y) - s(y')) of every pair, with math's functions alone."""
    gaps = [
        good - bad
        for good, is_good in zip(scores, positive, strict=True)
        if is_good
        for bad, is_good_too in zip(scores, positive, strict=True)
        if not is_good_too
    ]
    return [math.log1p(math.exp(-gap)) if gap > 0 else math.log1p(math.exp(gap)) - gap for gap in gaps]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


groups_of_scores = st.integers(2, 8).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-40, 40), min_size=k, max_size=k), st.lists(st.booleans(), min_size=k, max_size=k)
    )
)


@given(st.lists(st.floats(-40, 40), min_size=4, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4))
def test_all_pairs_is_the_mean_of_a_double_loop(scores: list[float], positive: list[bool]) -> None:
    losses = pair_losses(scores, positive)
    batch = torch.tensor([scores, scores[::-1]], dtype=torch.float64), torch.tensor([positive, positive[::-1]])
    expected = sum(losses) / len(losses) if losses else 0.0
    assert all_pairs(*batch).tolist() == pytest.approx([expected] * 2)


@given(groups_of_scores, st.integers(0, 2**32))
def test_a_random_pair_is_one_of_the_pairs(group: tuple[list[float], list[bool]], seed: int) -> None:
    scores, positive = group
    losses = pair_losses(scores, positive)
    batch = torch.tensor([scores], dtype=torch.float64), torch.tensor([positive])
    loss = random_pair(*batch, generator(seed)).item()
    assert loss == random_pair(*batch, generator(seed)).item(), "the same seed draws another pair"
    assert any(loss == pytest.approx(pair, rel=1e-9, abs=1e-8) for pair in losses or [0.0])


def test_every_pair_is_drawn_equally_often() -> None:
    """12 pairs, 12,000 draws: chi-square with 11 degrees of freedom exceeds 31.3 once in a thousand."""
    positive = torch.tensor([True, False, True, False, True, False, False])
    scores = (10.0 ** torch.arange(7, dtype=torch.float64)).expand(12_000, 7).clone().requires_grad_()
    losses = random_pair(scores / 1e8, positive.expand(12_000, 7), generator(1))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    good, bad = gradient.argmin(-1), gradient.argmax(-1)
    assert (gradient != 0).sum(-1).eq(2).all(), "one positive and one negative have a gradient"
    counts = torch.bincount(7 * good + bad, minlength=49).view(7, 7)
    pairs = positive.unsqueeze(1) & ~positive.unsqueeze(0)
    assert counts[~pairs].sum() == 0
    assert ((counts[pairs] - 1000.0) ** 2 / 1000).sum() < 31.3


@pytest.mark.parametrize("loss", [all_pairs, lambda scores, positive: random_pair(scores, positive, generator(0))])
@pytest.mark.parametrize("scale", [0, 1])
def test_without_a_pair_there_is_nothing_to_learn(loss: Callable[[Tensor, Tensor], Tensor], scale: float) -> None:
    scores = (scale * torch.tensor([[1.0, -1e4, 1e4]] * 2)).requires_grad_()
    losses = loss(scores, torch.tensor([[False] * 3, [True] * 3]))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert losses.tolist() == [0, 0]
    assert gradient.abs().sum() == 0


def test_one_positive_and_one_negative_are_the_same_loss_as_mnce() -> None:
    scores = torch.randn(50, 2, dtype=torch.float64, generator=generator(3))
    positive = torch.tensor([[False, True]]).expand(50, 2)
    for loss in (all_pairs(scores, positive), random_pair(scores, positive, generator(0))):
        torch.testing.assert_close(loss, multi_label_nce(scores, positive))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scores_stay_finite(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    loss = all_pairs(scores, torch.tensor([[True, True, False, False]]))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.item() == pytest.approx((2 * math.log(2) + 20_000) / 4, rel=1e-6)
    # Level with its rival: half a pair; 20,000 nats behind: a whole one; 20,000 ahead: none.
    assert gradient[0].tolist() == pytest.approx([-0.125, -0.375, 0.375, 0.125])


def test_the_pair_of_a_group_goes_by_its_seed() -> None:
    """The same pair at every update, another for another seed, and on average all pairs."""
    groups, objective = random_groups(prompts=1, seed=2), RandomPair(beta=0.2)
    assert groups.positive.sum() == 3
    losses = []
    for seed in range(300):
        drawn = ResponseTensors(**{**vars(groups), "seeds": (seed,)})
        losses.append(objective.loss(drawn, totals_of(drawn)).item())
        assert objective.loss(drawn, totals_of(drawn)).item() == losses[-1], "a group's pair changes between updates"
    pairs = pair_losses(objective.scores(groups)[0].tolist(), groups.positive[0].tolist())
    assert {round(loss, 9) for loss in losses} == {round(pair, 9) for pair in pairs}, "not all pairs are ever drawn"
    error = (max(pairs) - min(pairs)) / math.sqrt(300)
    assert sum(losses) / 300 == pytest.approx(sum(pairs) / len(pairs), abs=3 * error)
