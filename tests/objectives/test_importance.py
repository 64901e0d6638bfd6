"""Truncated importance weights: of tokens in losses that are means over tokens, of responses in contrasts."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from objective_groups import (
    ALL,
    CONTRASTIVE,
    POLICY_GRADIENT,
    assert_same,
    build,
    random_groups,
    totals_of,
    value_and_gradient,
)
from torch import Tensor

from rence_lightning.errors import UserError
from rence_lightning.objectives import NFT, DisCO, MultiLabelNCE, ResponseTensors

SEQUENCE = [*CONTRASTIVE, DisCO]
TOKEN = [*POLICY_GRADIENT, NFT]


def with_engine(groups: ResponseTensors, difference: Tensor | float) -> ResponseTensors:
    """The same groups, with log pi_old - log pi_engine of every token."""
    return replace(groups, engine_log_probs=groups.old_log_probs - difference)


def test_every_objective_has_weights() -> None:
    assert set(SEQUENCE + TOKEN) == set(ALL)


@pytest.mark.parametrize("objective", TOKEN)
def test_losses_of_tokens_count_each_token_by_its_truncated_ratio(objective: type[Any]) -> None:
    """Weight 1 where both agree; else each token counts min(pi_old / pi_engine, cap) times."""
    groups = random_groups()
    plain, weighted = build(objective), build(objective, tis_cap=1.5)
    value, gradient = value_and_gradient(plain, groups)
    for difference, weight in ((0.0, 1.0), (-math.log(2), 0.5), (math.log(2), 1.5)):
        actual = value_and_gradient(weighted, with_engine(groups, difference))
        assert_same(actual, (weight * value, weight * gradient), f"weights of {weight}")


@pytest.mark.parametrize("objective", SEQUENCE)
def test_contrasts_weight_the_gradient_of_each_response_by_its_truncated_ratio(objective: type[Any]) -> None:
    """The gradient by the log-probabilities of a response is multiplied by min(product of its tokens' ratios, cap); the
    value of the loss is not changed."""
    groups = random_groups()
    generator = torch.Generator().manual_seed(2)
    difference = 0.3 * torch.randn(groups.mask.shape, generator=generator, dtype=torch.float64)
    value, gradient = value_and_gradient(build(objective), groups)
    weights = torch.ones(groups.rewards.shape, dtype=torch.float64)
    for p in range(weights.shape[0]):
        for k in range(weights.shape[1]):
            length = int(groups.mask[p, k].sum())
            weights[p, k] = min(math.prod(math.exp(x) for x in difference[p, k, :length].tolist()), 1.4)
    assert (weights == 1.4).any() and (weights < 1).any()
    actual = value_and_gradient(build(objective, tis_cap=1.4), with_engine(groups, difference))
    assert_same(actual, (value, weights.unsqueeze(-1) * gradient), "not the weights of the responses")


def test_weighted_gradients_on_samples_of_the_engine_are_those_on_samples_of_pi_old() -> None:
    """Two correct responses of one token, and a wrong one that each is contrasted with: in expectation over what the
    engine samples, the weighted gradient by the positive is the one over samples of pi_old."""
    old = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    engine = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    logits = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64).requires_grad_()

    def expected_gradient(sampler: Tensor, cap: float | None) -> Tensor:
        log_probs = logits.log_softmax(-1)
        total = torch.zeros((), dtype=torch.float64)
        for correct in (0, 1):
            tokens = torch.tensor([[[correct], [2]]])
            groups = ResponseTensors(
                torch.stack([log_probs[correct], log_probs[2].detach()]).view(1, 2, 1),
                old.log()[tokens],
                torch.ones(1, 2, 1, dtype=torch.bool),
                torch.tensor([[1.0, 0.0]], dtype=torch.float64),
                torch.tensor([[True, False]]),
                engine_log_probs=engine.log()[tokens],
            )
            loss = MultiLabelNCE(tis_cap=cap).loss(groups, totals_of(groups))
            total = total + sampler[correct] * loss
        (gradient,) = torch.autograd.grad(total, logits)
        return gradient

    wanted = expected_gradient(old, None)
    torch.testing.assert_close(expected_gradient(engine, 100.0), wanted)
    assert not torch.allclose(expected_gradient(engine, None), wanted, rtol=0.05)


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan")])
def test_a_cap_must_be_positive(objective: type[Any], cap: float) -> None:
    with pytest.raises(UserError, match=f"tis_cap is {cap}; it must be > 0"):
        build(objective, tis_cap=cap)


def test_weights_need_the_engine() -> None:
    with pytest.raises(RuntimeError, match="engine's log-probabilities"):
        value_and_gradient(DisCO(tis_cap=2.0), random_groups())
