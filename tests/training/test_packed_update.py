"""The gradient of an update by packed rows, against padded rows: for every objective, budget, number of ranks and shape
of model, in float64 and float32; and the number of passes it takes."""

from array import array

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_groups import ALL, SETTINGS, build
from tiny_models import VOCABULARY, in_float64, tiny_policy
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rence_lightning.callbacks.old_policy import keep_as_old
from rence_lightning.objectives import GRPO, MultiLabelNCE, ResponseTensors, Totals
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.policy.load import activation_checkpointing
from rence_lightning.prompts import Problem, Prompt
from rence_lightning.rewards import Response, Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling import PositiveRatioFilter
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.update import Update

ARCHITECTURES = ["qwen3-tied", "llama-untied", "gpt2-tied"]
REWARDS = [[1, 1, 0.1, 0], [1, 0.1, 0.1, 0], [0, 1, 1, 0.1]]
LENGTHS = [(3, [5, 1, 9, 2]), (7, [4, 4, 4, 4]), (1, [30, 1, 1, 1])]
"""Tokens of prompts and responses: mixed, all equal, one huge."""
WHOLE, HALF, SINGLE = 10_000, 16, 1
"""Budgets of a row: all groups, half of a group, one response."""
CUTS = [(SINGLE, 2), (HALF, 3), (WHOLE, 1), (WHOLE, 3)]
"""Budgets and numbers of ranks; `test_any_lengths_give_the_same_gradient` draws others."""
PAIRS = [(objective, ARCHITECTURES[number % 3]) for number, objective in enumerate(ALL)]


def make_groups(
    lengths: list[tuple[int, list[int]]] = LENGTHS, noise: float = 0.3, seed: int = 0, replies: bool = True
) -> list[Group]:
    """Groups of random tokens, with log-probabilities of pi_old that differ from the policy's, and with replies in
    responses of three tokens or more."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> list[int]:
        drawn: list[int] = torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()
        return drawn

    groups = []
    for index, (prompt, responses) in enumerate(lengths):
        written = [((1, (length - 1) // 2),) if replies and length > 2 else () for length in responses]
        chosen = [length - sum(last for _, last in each) for length, each in zip(responses, written, strict=True)]
        rollouts = [
            Rollout(array("i", tokens(length)), array("f", [-2.0] * count), "stop", each)
            for length, count, each in zip(responses, chosen, written, strict=True)
        ]
        scores = [Score(float(reward), reward == 1, None) for reward in REWARDS[index % len(REWARDS)]]
        problem = Prompt(index, Problem(str(index), "", ""), tuple(tokens(prompt)))
        group = Group(problem, rollouts, [""] * 4, scores, temperature=0.8, seed=7 * index)
        group.judge(PositiveRatioFilter(), [Response(problem.problem, "")] * len(rollouts))
        if noise:
            group.old_log_probs = [
                -2 + noise * torch.randn(count, generator=generator, dtype=torch.float64) for count in chosen
            ]
        groups.append(group)
    return groups


def make_module(architecture: str, objective: type = MultiLabelNCE, float64: bool = True) -> PolicyModule:
    limit = {"max_response_tokens": 30} if "max_response_tokens" in SETTINGS.get(objective, {}) else {}
    module = PolicyModule("none", build(objective, **limit), TrustRegion(kl_coef=0.3))
    policy = tiny_policy(architecture)
    module.policy = in_float64(policy) if float64 else policy
    return module


def update(
    module: PolicyModule, groups: list[Group], budget: int = WHOLE, world: int = 1, packed: bool = True
) -> tuple[Tensor, dict[str, float]]:
    """The gradient of an update and its figures, summed over ranks, computed as the trainer does."""
    module.policy.packed = packed
    module.train()
    couples = module.objective.couples_responses
    figures: dict[str, float] = {}
    passes = set()
    for rank in range(world):
        share = Update(groups, budget, rank, world, packed, couples)
        passes.add(len(share.micro_batches))
        share.prepare(module)
        for pieces in share.micro_batches:
            share.loss(module, pieces).backward()
        for name, value in share.figures(module).items():
            figures[name] = figures.get(name, 0.0) + float(value)
    assert len(passes) == 1, f"ranks of {world} make different numbers of passes: collectives would hang"
    gradient = torch.cat([parameter.grad.flatten() for parameter in module.policy.parameters()])
    module.zero_grad()
    return gradient, figures


@pytest.mark.parametrize(("objective", "architecture"), PAIRS)
def test_packed_updates_have_the_gradient_of_padded_ones(objective: type, architecture: str) -> None:
    module, groups = make_module(architecture, objective), make_groups()
    expected, figures = update(module, groups, packed=False)
    assert expected.abs().max() > 1e-3
    for budget, world in CUTS:
        gradient, ours = update(module, groups, budget, world)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
        assert ours == pytest.approx(figures, abs=1e-7), "the figures depend on budget or ranks"
    padded, _ = update(module, groups, 100, packed=False)
    torch.testing.assert_close(padded, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("objective", "architecture"), PAIRS)
def test_replies_count_in_nothing(objective: type, architecture: str) -> None:
    """Against the objective of log-probabilities that are taken one by one, each of a token that the policy chose after
    all that stands before it. What a reply says changes them; that there is one changes no sum and no mean."""
    module, groups = make_module(architecture, objective), make_groups()
    gradient, figures = update(module, groups, HALF)
    rows = []
    for group in groups:
        for rollout in group.rollouts:
            tokens = torch.tensor([[*group.prompt.token_ids, *rollout.token_ids]])
            log_probs = (module.policy.model(tokens).logits[0] / group.temperature).log_softmax(-1)
            written = {place for first, last in rollout.replies for place in range(first, last + 1)}
            start = len(group.prompt.token_ids)
            places = [start + place for place in range(len(rollout.token_ids)) if place not in written]
            rows.append(torch.stack([log_probs[place - 1, tokens[0, place]] for place in places]))
    lengths = torch.tensor(list(map(len, rows))).view(len(groups), -1)
    engine = [torch.full_like(row, -2.0) for row in rows]
    old = [each for group in groups for each in group.old_log_probs]
    padded = [pad_sequence(each, batch_first=True).unflatten(0, lengths.shape) for each in (rows, old, engine)]
    rewards, positive = (torch.tensor([getattr(group, name) for group in groups]) for name in ("rewards", "positive"))
    responses = ResponseTensors(
        *padded[:2],
        torch.arange(int(lengths.max())) < lengths.unsqueeze(-1),
        rewards,
        positive,
        tuple(group.seed for group in groups),
        engine_log_probs=padded[2].float(),
    )
    totals = Totals(len(groups), lengths.numel(), int(lengths.sum()), int(positive.sum()))
    loss = module.loss([responses], totals)[0]
    loss.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in module.policy.parameters()])
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-8)
    without = make_groups(replies=False)
    assert Update(groups, WHOLE).totals.tokens == int(lengths.sum()) < Update(without, WHOLE).totals.tokens


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_updates_agree_with_padded_ones_in_float32(architecture: str, checkpointing: bool) -> None:
    module, groups = make_module(architecture, float64=False), make_groups()
    if checkpointing:
        activation_checkpointing(module.policy.model)
    expected, _ = update(module, groups, packed=False)
    for budget in (HALF, WHOLE):
        gradient, _ = update(module, groups, budget)
        assert (gradient - expected).norm() / expected.norm() < 1e-5


shapes = st.lists(
    st.tuples(st.integers(1, 20), st.lists(st.integers(1, 40), min_size=4, max_size=4)), min_size=1, max_size=4
)
MODULE = make_module("qwen3-tied")


@settings(max_examples=25)
@given(shapes, st.sampled_from([SINGLE, 30, 100, WHOLE]), st.integers(1, 3))
def test_any_lengths_give_the_same_gradient(lengths: list[tuple[int, list[int]]], budget: int, world: int) -> None:
    groups = make_groups(lengths)
    expected, _ = update(MODULE, groups, packed=False)
    gradient, _ = update(MODULE, groups, budget, world)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


# ---- the first update, and groups that are cut ----------------------------------------------------------------------


def passes_of(module: PolicyModule, share: Update) -> tuple[int, int]:
    """Number of tokens that an update computes with and without a gradient."""
    counted = {True: 0, False: 0}

    def count(_: object, arguments: tuple[object, ...]) -> None:
        counted[torch.is_grad_enabled()] += len(arguments[0].input_ids)  # type: ignore[attr-defined]

    handle = module.policy.register_forward_pre_hook(count)
    share.prepare(module)
    for pieces in share.micro_batches:
        share.loss(module, pieces).backward()
    handle.remove()
    share.figures(module)
    module.zero_grad()
    return counted[True], counted[False]


@pytest.mark.parametrize("budget", [SINGLE, HALF, WHOLE])
def test_the_first_update_takes_the_log_probs_of_pi_old_itself(budget: int) -> None:
    """They are those that a pass of their own would take, and the gradient is the one that follows from them."""
    scored = make_groups(noise=0)
    take_old(scored)
    expected, _ = update(MODULE, scored, budget)
    groups = make_groups(noise=0)
    share = Update(groups, budget, at_old_policy=True)
    share.prepare(MODULE)
    for pieces in share.micro_batches:
        share.loss(MODULE, pieces).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in MODULE.policy.parameters()])
    MODULE.zero_grad()
    figures = share.figures(MODULE)
    keep_as_old(share)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert float(figures["kl"]) == 0
    for group, other in zip(groups, scored, strict=True):
        for old, separate in zip(group.old_log_probs, other.old_log_probs, strict=True):
            torch.testing.assert_close(old, separate, rtol=0, atol=1e-12)
    assert share.entropy == pytest.approx(take_old(scored))


def take_old(groups: list[Group]) -> float:
    """Sets pi_old by passes of their own; returns the sum of its entropies."""
    share = Update(groups, WHOLE)
    share.score(MODULE, share.micro_batches, entropy=True)
    keep_as_old(share)
    return share.entropy


def test_no_token_is_computed_twice_where_groups_fit() -> None:
    real = sum(prompt + sum(responses) for prompt, responses in LENGTHS)
    module = make_module("qwen3-tied")
    module._compared = True  # the comparison of packed and padded rows computes a few tokens once in a run
    for groups, first in ((make_groups(noise=0), True), (make_groups(), False)):
        share = Update(groups, 50, at_old_policy=first)
        assert passes_of(module, share) == (real, 0)


def test_groups_that_are_cut_are_scored_only_where_responses_are_coupled_and_unknown() -> None:
    """A prompt is computed again for each further piece of its group."""
    responses = sum(sum(lengths) for _, lengths in LENGTHS)
    tokens = responses + sum(4 * prompt for prompt, _ in LENGTHS)
    for objective, first, known, scored in (
        (MultiLabelNCE, False, True, tokens),
        (MultiLabelNCE, True, True, 0),  # pi_old is the policy itself, and known from the engine
        (MultiLabelNCE, True, False, tokens),
        (GRPO, False, True, 0),
        (GRPO, True, False, 0),
    ):
        module = make_module("qwen3-tied", objective)
        module._compared = True
        groups = make_groups(noise=0.1 if known else 0)
        couples = module.objective.couples_responses
        share = Update(groups, SINGLE, couples=couples, at_old_policy=first)
        assert passes_of(module, share) == (tokens, scored)
