"""The gradient of an update: against the equation in float64, and the same however the update is cut up."""

from array import array
from dataclasses import replace
from typing import Any

import pytest
import torch
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from hypothesis import given
from hypothesis import strategies as st
from objective_groups import (
    ALL,
    ORDERLY,
    SETTINGS,
    TOKENS,
    assert_same,
    build,
    part,
    random_groups,
    reorder,
    totals_of,
    value_and_gradient,
)
from tiny_models import in_float64
from torch import Tensor

from rence_lightning.callbacks.old_policy import keep_as_old
from rence_lightning.objectives import GRPO, NFT, MultiLabelNCE
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.prompts import Problem, Prompt
from rence_lightning.rewards import Response, Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling import PositiveRatioFilter
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update

BETA, ALPHA, KL_COEF = 0.1, 0.5, 0.3
REWARDS = [[1, 1, 0.1, 0], [1, 0.1, 0.1, 0], [0.1, 0.1, 1, 0.1], [0, 1, 1, 0.1], [0, 0, 0, 1]]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A trainer whose policy is in float64. It is shared; tests must not leave a gradient or another objective."""
    fresh_start()
    trainer = make_trainer(tmp_path_factory.mktemp("update") / "run", precision="64-true", max_iterations=0)
    trainer.fit(make_module(trust_region=TrustRegion(kl_coef=KL_COEF)), make_data())
    in_float64(trainer.lightning_module.policy)
    return trainer


def rollout_of(tokens: "array[int]", replies: list[tuple[int, int]]) -> Rollout:
    rollout = Rollout(tokens, array("f"), "stop", tuple(replies))
    return replace(rollout, log_probs=array("f", [0.0] * rollout.chosen_tokens))


def make_groups(module: PolicyModule) -> list[Group]:
    """Groups of random tokens and random lengths, with replies in long responses, and with old log-probabilities unlike
    the policy's own."""
    generator = torch.Generator().manual_seed(1)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    groups = []
    for index, rewards in enumerate(REWARDS):
        prompt = tuple(number(3, 15) for _ in range(number(3, 9)))
        tokens = [array("i", [number(3, 15) for _ in range(number(1, 30))]) for _ in rewards]
        rollouts = [rollout_of(ids, [(3, 3), (7, 9)][: len(ids) // 6]) for ids in tokens]
        scores = [Score(float(reward), reward == 1, None) for reward in rewards]
        problem = Prompt(index, Problem(str(index), "", ""), prompt)
        group = Group(problem, rollouts, [""] * len(rollouts), scores, temperature=0.8, seed=7 * index)
        group.judge(PositiveRatioFilter(), [Response(problem.problem, "")] * len(rollouts))
        groups.append(group)
    at_old = Update(groups, 10_000)
    at_old.score(module, at_old.micro_batches)
    keep_as_old(at_old)
    for group in groups:
        noise = [0.3 * torch.randn(length, generator=generator, dtype=torch.float64) for length in group.lengths]
        group.old_log_probs = [old + each for old, each in zip(group.old_log_probs, noise, strict=True)]
    return groups


def naive(module: PolicyModule, groups: list[Group]) -> tuple[Tensor, Tensor]:
    """Eq. (1), and (2), the token mean of k3, one response at a time, from the model's full logits."""
    total, kl, tokens = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0
    for group in groups:
        scores = []
        best = max(group.rewards)
        for rollout, old, reward in zip(group.rollouts, group.old_log_probs, group.rewards, strict=True):
            prompt, response = group.prompt.token_ids, rollout.token_ids
            logits = module.policy.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
            written = {place for first, last in rollout.replies for place in range(first, last + 1)}
            chosen = [place for place in range(len(response)) if place not in written]
            log_probs = (logits / group.temperature).log_softmax(-1)[chosen, [response[place] for place in chosen]]
            scores.append(BETA * (log_probs.sum() - old.sum()) + ALPHA * (best - reward))
            ratio = (log_probs - old).exp()
            kl = kl + (ratio - 1 - ratio.log()).sum()
            tokens += len(chosen)
        negatives = [score for score, positive in zip(scores, group.positive, strict=True) if not positive]
        terms = [
            -torch.log(score.exp() / (score.exp() + sum(negative.exp() for negative in negatives)))
            for score, positive in zip(scores, group.positive, strict=True)
            if positive
        ]
        total = total + sum(terms) / len(terms)
    return total / len(groups), kl / tokens


def gradient_of(module: PolicyModule) -> Tensor:
    gradient = torch.cat([parameter.grad.flatten() for parameter in module.policy.parameters()])
    module.zero_grad()
    return gradient


def test_gradient_of_an_update_is_that_of_the_equation(trainer: Trainer) -> None:
    module = trainer.lightning_module
    groups = make_groups(module)
    contrast, kl = naive(module, groups)
    loss = contrast + KL_COEF * kl
    loss.backward()
    expected = gradient_of(module)
    metrics = Update(groups, 10_000).backward(module, trainer.fabric)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-7), "the logged loss is not Eq. (1)"
    torch.testing.assert_close(gradient_of(module), expected, rtol=1e-9, atol=1e-11)


@pytest.fixture(params=[MultiLabelNCE, GRPO, NFT])
def update(request: pytest.FixtureRequest, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """The groups of an update. (Every objective, with a small policy: test_packed_update.py.)"""
    settings = {"max_response_tokens": 30} if "max_response_tokens" in SETTINGS.get(request.param, {}) else {}
    monkeypatch.setattr(trainer.lightning_module, "objective", build(request.param, **settings))
    return make_groups(trainer.lightning_module)


def backward(trainer: Trainer, groups: list[Group], budget: int = 10_000) -> tuple[Tensor, dict[str, float]]:
    module = trainer.lightning_module
    metrics = Update(groups, budget, couples=module.objective.couples_responses).backward(module, trainer.fabric)
    return gradient_of(module), metrics


def test_gradient_does_not_depend_on_the_micro_batch(trainer: Trainer, update: list[Group]) -> None:
    """From one pass for all groups, over whole groups, to groups cut into single responses."""
    expected, whole = backward(trainer, update)
    for budget in (300, 100, 40, 1):
        gradient, metrics = backward(trainer, update, budget)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)
        assert metrics == pytest.approx(whole, abs=1e-7), "the figures of an update depend on the micro-batch size"


def test_gradient_does_not_depend_on_the_order_of_groups(trainer: Trainer, update: list[Group]) -> None:
    expected, whole = backward(trainer, update, 150)
    gradient, metrics = backward(trainer, update[::-1], 150)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)
    assert metrics == pytest.approx(whole, abs=1e-7), "the figures of an update depend on the order of its groups"


# ---- the same properties of the objectives alone, without a policy --------------------------------------------------


@pytest.mark.parametrize("objective", ALL)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 10_000))
def test_shares_of_any_partition_add_up(objective: type[Any], ranks: list[int], seed: int) -> None:
    groups, loss = random_groups(seed=seed), build(objective)
    totals = totals_of(groups)
    expected, metrics = value_and_gradient(loss, groups), loss.metrics(groups, totals)
    shares = [part(groups, [i for i, r in enumerate(ranks) if r == rank]) for rank in sorted(set(ranks))]
    value = sum(loss.loss(share, totals) for share in shares)
    (gradient,) = torch.autograd.grad(value, groups.log_probs)
    assert_same((value.detach(), gradient), expected, "depends on how an update's groups are assigned to ranks")
    for name, whole in metrics.items():
        torch.testing.assert_close(sum(loss.metrics(share, totals)[name] for share in shares), whole)


@pytest.mark.parametrize("objective", ALL)
@given(st.permutations(range(6)), st.integers(0, 10_000))
def test_objectives_do_not_depend_on_the_order_of_prompts(objective: type[Any], order: list[int], seed: int) -> None:
    groups, loss = random_groups(seed=seed), build(objective)
    actual = value_and_gradient(loss, part(groups, order), leaf=groups.log_probs)
    assert_same(actual, value_and_gradient(loss, groups), "depends on the order of prompts")


@pytest.mark.parametrize("objective", ORDERLY)
@given(st.permutations(range(5)), st.integers(0, 10_000))
def test_objectives_do_not_depend_on_the_order_of_responses(objective: type[Any], order: list[int], seed: int) -> None:
    groups, loss = random_groups(seed=seed), build(objective)
    actual = value_and_gradient(loss, reorder(groups, order), leaf=groups.log_probs)
    assert_same(actual, value_and_gradient(loss, groups), "depends on the order of responses")


GARBAGE = st.sampled_from([0.0, 1e6, -1e6, float("nan"), float("inf"), -float("inf")])


@pytest.mark.parametrize("objective", ALL)
@given(seed=st.integers(0, 10_000), more=st.integers(0, 3), new=GARBAGE, old=GARBAGE)
def test_padding_does_not_affect_loss_or_gradient(
    objective: type[Any], seed: int, more: int, new: float, old: float
) -> None:
    groups, loss = random_groups(prompts=3, seed=seed), build(objective)
    mask = torch.nn.functional.pad(groups.mask, (0, more))

    def padded(values: Tensor, garbage: float) -> Tensor:
        return torch.nn.functional.pad(values.detach(), (0, more)).masked_fill(~mask, garbage)

    log_probs = padded(groups.log_probs, new).requires_grad_()
    longer = replace(groups, log_probs=log_probs, old_log_probs=padded(groups.old_log_probs, old), mask=mask)
    value, gradient = value_and_gradient(loss, longer)
    assert gradient[~mask].abs().sum() == 0, "padding has a gradient"
    assert_same((value, gradient[..., :TOKENS]), value_and_gradient(loss, groups), "depends on padding")
    for name, metric in loss.metrics(longer, totals_of(longer)).items():
        torch.testing.assert_close(metric, loss.metrics(groups, totals_of(groups))[name])
