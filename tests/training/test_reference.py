"""The penalty to the policy that a run started from: its equation, where the reference comes from, and resuming."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import randomise
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from objective_groups import random_groups, totals_of
from test_update_gradient import gradient_of, make_groups
from tiny_models import in_float64
from torch import Tensor

from rence_lightning.callbacks import Checkpoint
from rence_lightning.errors import UserError
from rence_lightning.objectives import GRPO, MultiLabelNCE, Objective, ResponseTensors
from rence_lightning.objectives.trust_region import ReferencePenalty, TrustRegion
from rence_lightning.policy import LoRA
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update

COEF = 0.7


# ---- the penalty ----------------------------------------------------------------------------------------------------


def with_reference(seed: int) -> ResponseTensors:
    groups = random_groups(seed=seed)
    noise = torch.randn(groups.mask.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return ResponseTensors(**{**vars(groups), "reference_log_probs": groups.old_log_probs + 0.4 * noise})


def naive_kl(groups: ResponseTensors) -> Tensor:
    """Eq. (4) of GRPO: pi_ref / pi_theta - log(pi_ref / pi_theta) - 1, a mean over tokens, then over responses."""
    assert groups.reference_log_probs is not None
    total, count = torch.zeros((), dtype=torch.float64), 0
    prompts, responses, tokens = groups.log_probs.shape
    for p in range(prompts):
        for k in range(responses):
            here = [t for t in range(tokens) if groups.mask[p, k, t]]
            ratios = [
                torch.exp(groups.reference_log_probs[p, k, t]) / torch.exp(groups.log_probs[p, k, t]) for t in here
            ]
            total, count = total + sum(ratio - torch.log(ratio) - 1 for ratio in ratios) / len(here), count + 1
    return total / count


@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_is_the_equation_token_by_token(seed: int) -> None:
    groups = with_reference(seed)
    expected, actual = naive_kl(groups), ReferencePenalty().kl(groups, totals_of(groups))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients = [torch.autograd.grad(value, groups.log_probs)[0] for value in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_the_estimate_is_kl_of_the_policy_from_the_reference() -> None:
    """Summed over all outcomes with the probabilities of the policy it is KL(pi_theta || pi_ref), not its reverse."""
    policy = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.2, 0.3, 0.3], dtype=torch.float64)
    total = 0.0
    for token in range(4):
        groups = ResponseTensors(
            policy.log()[token].view(1, 1, 1),
            policy.log()[token].view(1, 1, 1),
            torch.ones(1, 1, 1, dtype=torch.bool),
            torch.zeros(1, 1),
            torch.zeros(1, 1, dtype=torch.bool),
            reference_log_probs=reference.log()[token].view(1, 1, 1),
        )
        total += policy[token].item() * ReferencePenalty().kl(groups, totals_of(groups)).item()
    exact = (policy * (policy / reference).log()).sum().item()
    assert total == pytest.approx(exact)
    assert abs(exact - (reference * (reference / policy).log()).sum().item()) > 0.01


def test_a_negative_coefficient_is_refused() -> None:
    with pytest.raises(UserError, match="reference: kl_coef is -1, it must be >= 0"):
        ReferencePenalty(kl_coef=-1)


# ---- in an update ---------------------------------------------------------------------------------------------------


def trainer_of(run_dir: Path, **settings: Any) -> Trainer:
    fresh_start()
    trainer = make_trainer(run_dir, precision="64-true", max_iterations=0)
    settings = {"trust_region": TrustRegion(kl_coef=0.0), "reference": ReferencePenalty(COEF), **settings}
    trainer.fit(make_module(**settings), make_data())
    module = trainer.lightning_module
    in_float64(module.policy)
    if module.reference_policy is not None:
        in_float64(module.reference_policy)
    return trainer


def moved(module: PolicyModule) -> None:
    """Moves the policy away from the reference."""
    if module.reference_policy is None:
        randomise(module.policy)
        return
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def log_probs_of(model: Any, group: Group, number: int) -> Tensor:
    prompt, rollout = group.prompt.token_ids, group.rollouts[number]
    written = {place for first, last in rollout.replies for place in range(first, last + 1)}
    chosen = [place for place in range(len(rollout.token_ids)) if place not in written]
    logits = model(torch.tensor([[*prompt, *rollout.token_ids]])).logits[0, len(prompt) - 1 : -1]
    return (logits / group.temperature).log_softmax(-1)[chosen, [rollout.token_ids[place] for place in chosen]]


@pytest.mark.parametrize("lora", [None, LoRA(r=3, alpha=6)], ids=["weights", "adapters"])
@pytest.mark.parametrize("objective", [GRPO(), MultiLabelNCE()], ids=lambda each: type(each).__name__)
def test_the_gradient_of_an_update_has_the_penalty(objective: Objective, lora: LoRA | None, tmp_path: Path) -> None:
    """Against a loop over full logits of both models, for any micro-batch; with adapters there is no second model."""
    trainer = trainer_of(tmp_path / "run", objective=objective, lora=lora)
    plain = trainer_of(tmp_path / "plain", objective=objective, lora=None)
    module, original = trainer.lightning_module, plain.lightning_module.policy.model
    assert (module.reference_policy is None) == (lora is not None)
    moved(module)
    groups = make_groups(module)
    kl = torch.zeros((), dtype=torch.float64)
    for group in groups:
        for number in range(group.size):
            with torch.no_grad():
                reference = log_probs_of(original, group, number)
            ratio = (reference - log_probs_of(module.policy.model, group, number)).exp()
            kl = kl + (ratio - ratio.log() - 1).mean() / (len(groups) * group.size)
    assert kl > 1e-3
    (COEF * kl).backward()
    penalty = trained_gradient(module)
    couples = objective.couples_responses
    for budget in (10_000, 40, 1):
        figures, gradients = [], []
        for reference in (module.reference, None):
            module.reference = reference
            figures.append(Update(groups, budget, couples=couples).backward(module, trainer.fabric))
            gradients.append(trained_gradient(module))
            module.reference = ReferencePenalty(COEF)
        assert figures[0]["reference_kl"] == pytest.approx(kl.item(), rel=1e-6)
        assert figures[0]["loss"] == pytest.approx(figures[1]["loss"] + COEF * kl.item(), abs=1e-6)
        assert "reference_kl" not in figures[1]
        torch.testing.assert_close(gradients[0] - gradients[1], penalty, rtol=1e-8, atol=1e-10)


def trained_gradient(module: PolicyModule) -> Tensor:
    if module.reference_policy is not None:
        return gradient_of(module)
    gradients = [each.grad.flatten() for each in module.policy.parameters() if each.requires_grad]
    gradient = torch.cat([each for each in gradients if each is not None]).clone()
    module.zero_grad()
    return gradient


def test_a_rank_without_groups_takes_part_in_every_pass(tmp_path: Path) -> None:
    """As many passes of the reference policy as the other rank, on rows that count for nothing."""
    module = trainer_of(tmp_path / "run").lightning_module
    groups = make_groups(module)[:1]
    assert module.reference_policy is not None
    passes: list[int] = []
    module.reference_policy.register_forward_pre_hook(lambda *_: passes.append(1))
    counts = []
    for rank in (0, 1):
        share = Update(groups, 20, rank, world=2)
        assert len(share.micro_batches) > 1 and bool(share.groups) == (rank == 0)
        share.prepare(module)
        for pieces in share.micro_batches:
            assert share.loss(module, pieces).isfinite()
        counts.append(len(passes))
    assert counts[1] == 2 * counts[0] > 2


# ---- in a run -------------------------------------------------------------------------------------------------------


def reference_kls(run_dir: Path) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row["train/reference_kl"]) for row in csv.DictReader(file) if row["train/reference_kl"]]


def fit(run_dir: Path, iterations: int, ckpt_path: str | None = None, **settings: Any) -> Trainer:
    fresh_start()
    trainer = make_trainer(run_dir, [Checkpoint()], max_iterations=iterations)
    trainer.fit(make_module(reference=ReferencePenalty(0.1), **settings), make_data(), ckpt_path=ckpt_path)
    return trainer


def test_the_reference_stays_where_the_run_started_and_survives_a_resume(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 3)
    start = make_module()
    start.configure_model()
    reference = whole.lightning_module.reference_policy
    assert reference is not None and not any(parameter.requires_grad for parameter in reference.parameters())
    for one, other in zip(reference.parameters(), start.policy.parameters(), strict=True):
        assert torch.equal(one, other), "the reference has moved"
    kls = reference_kls(tmp_path / "whole")
    assert len(kls) == 6 and kls[0] == pytest.approx(0, abs=1e-6) and kls[2] > 10 * kls[0]
    fit(tmp_path / "parts", 2)
    fit(tmp_path / "parts", 3, ckpt_path="last")
    assert reference_kls(tmp_path / "parts") == kls


def test_with_adapters_the_reference_is_the_policy_without_them(tmp_path: Path) -> None:
    trainer = fit(tmp_path / "run", 2, lora=LoRA(r=4))
    assert trainer.lightning_module.reference_policy is None
    kls = reference_kls(tmp_path / "run")
    assert kls[0] == pytest.approx(0, abs=1e-6) and kls[-1] > 10 * kls[0]


def test_an_evaluation_loads_no_reference(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", max_iterations=0)
    module = make_module(reference=ReferencePenalty())
    trainer.validate(module, make_data())
    assert module.reference_policy is None
