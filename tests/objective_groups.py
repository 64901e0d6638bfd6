"""Random groups for the tests of objectives, in float64, and a list of all objectives."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rence_lightning import objectives
from rence_lightning.objectives import (
    DAPO,
    GSPO,
    ContrastiveObjective,
    DisCO,
    DrGRPO,
    Objective,
    PolicyGradient,
    RandomPair,
    ResponseTensors,
    Totals,
)

TOKENS = 9
"""Number of tokens of the longest response."""

SETTINGS: dict[type[Objective], dict[str, Any]] = {
    # Clipping that takes effect at the log-ratios of random_groups; penalties of quarters have no rounding error.
    DAPO: {"overlong_buffer": 4, "max_response_tokens": TOKENS},
    GSPO: {"clip_low": 0.1, "clip_high": 0.15},
    DrGRPO: {"max_response_tokens": TOKENS},
    # Negatives that weigh differently at the scores of random_groups.
    DisCO: {"tau": 0.3},
}


def classes(family: type[Objective]) -> list[type[Any]]:
    """Every concrete objective of a family that the package exports."""
    exported = [getattr(objectives, name) for name in objectives.__all__]
    found = [thing for thing in exported if isinstance(thing, type) and issubclass(thing, family)]
    return [thing for thing in found if not inspect.isabstract(thing)]


def build(objective: type[Any], **settings: Any) -> Any:
    """An objective with settings under which all of its terms take effect."""
    return objective(**{**SETTINGS.get(objective, {}), **settings})


ALL = classes(Objective)
CONTRASTIVE = classes(ContrastiveObjective)
POLICY_GRADIENT = classes(PolicyGradient)
ORDERLY = [objective for objective in ALL if objective is not RandomPair]
"""Objectives whose loss does not depend on the order of a group's responses (a random pair is drawn by position)."""


def random_groups(
    prompts: int = 6, responses: int = 5, seed: int = 0, scale: float = 0.3, tokens: int = TOKENS
) -> ResponseTensors:
    """Groups of random log-probabilities, lengths and rewards; a fourth of them of equal rewards.

    Args:
        prompts: Number of groups.
        responses: Number of responses per group, K.
        seed: Seed of all random values.
        scale: Standard deviation of a token's log-ratio.
        tokens: Length to which the responses are padded; they are up to `TOKENS` long.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (prompts, responses, tokens)
    old = -torch.rand(shape, generator=generator, dtype=torch.float64)
    log_probs = old + scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, TOKENS + 1, shape[:2], generator=generator)
    rewards = torch.rand(shape[:2], generator=generator, dtype=torch.float64)
    equal = torch.rand(prompts, generator=generator) < 0.25
    rewards[equal] = torch.randint(0, 2, (prompts, 1), generator=generator).expand(shape[:2])[equal].double()
    return ResponseTensors(
        log_probs=log_probs.requires_grad_(),
        old_log_probs=old,
        mask=torch.arange(tokens) < lengths.unsqueeze(-1),
        rewards=rewards,
        positive=rewards > 0.6,
        seeds=tuple(1000 * seed + prompt for prompt in range(prompts)),
    )


def part(groups: ResponseTensors, prompts: Sequence[int]) -> ResponseTensors:
    """Some groups of an update, in the order given."""
    rows = torch.tensor(prompts, dtype=torch.long)
    return ResponseTensors(
        log_probs=groups.log_probs[rows],
        old_log_probs=groups.old_log_probs[rows],
        mask=groups.mask[rows],
        rewards=groups.rewards[rows],
        positive=groups.positive[rows],
        seeds=tuple(groups.seeds[prompt] for prompt in prompts),
    )


def reorder(groups: ResponseTensors, order: Sequence[int]) -> ResponseTensors:
    """The same groups with the responses of each in another order."""
    places = torch.tensor(order)
    return replace(
        groups,
        log_probs=groups.log_probs[:, places],
        old_log_probs=groups.old_log_probs[:, places],
        mask=groups.mask[:, places],
        rewards=groups.rewards[:, places],
        positive=groups.positive[:, places],
    )


def totals_of(groups: ResponseTensors) -> Totals:
    """The counts of an update that consists of `groups`."""
    prompts, responses = groups.rewards.shape
    return Totals(prompts, prompts * responses, int(groups.mask.sum()), int(groups.positive.sum()))


def value_and_gradient(
    objective: Objective, groups: ResponseTensors, leaf: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of an update of `groups`, and its derivative by `leaf` (default: the log-probabilities of `groups`)."""
    loss = objective.loss(groups, totals_of(groups))
    (gradient,) = torch.autograd.grad(loss, groups.log_probs if leaf is None else leaf)
    return loss.detach(), gradient


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], what: str) -> None:
    """Asserts that values and gradients agree up to rounding."""
    for name, a, b in zip(("value", "gradient"), actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {what}: {text}")
