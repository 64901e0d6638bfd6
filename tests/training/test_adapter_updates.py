"""Updates of a policy with low-rank adapters, against the update of the merged policy."""

from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import randomise
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from test_update_gradient import KL_COEF, make_groups
from tiny_models import in_float64

from rence_lightning.objectives import GRPO, MultiLabelNCE, Objective
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.policy import LoRA
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update


def trainer_of(run_dir: Path, **settings: Any) -> Trainer:
    """A trainer whose policy is in float64."""
    fresh_start()
    trainer = make_trainer(run_dir, precision="64-true", max_iterations=0)
    trainer.fit(make_module(trust_region=TrustRegion(kl_coef=KL_COEF), **settings), make_data())
    in_float64(trainer.lightning_module.policy)
    return trainer


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Trainer]:
    """One of a policy with adapters, and one of the same policy with the adapters merged into its weights."""
    folder = tmp_path_factory.mktemp("update")
    adapted, plain = trainer_of(folder / "adapted", lora=LoRA(r=3, alpha=6)), trainer_of(folder / "plain")
    randomise(adapted.lightning_module.policy)
    weights = dict(adapted.lightning_module.policy.weights(torch.device("cpu"), torch.float64))
    plain.lightning_module.policy.model.load_state_dict(weights)
    return adapted, plain


@pytest.mark.parametrize("objective", [MultiLabelNCE(), GRPO()], ids=lambda each: type(each).__name__)
def test_the_gradient_of_an_update_is_that_of_the_merged_policy(
    objective: Objective, trainers: tuple[Trainer, Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the chain rule, dA = s B^T dW and dB = s dW A^T; also where groups are cut into pieces."""
    for trainer, budget in zip(trainers, (40, 10_000), strict=True):
        module = trainer.lightning_module
        monkeypatch.setattr(module, "objective", objective)
        module.zero_grad()
        groups = make_groups(module)
        couples = module.objective.couples_responses
        metrics = Update(groups, budget, couples=couples).backward(module, trainer.fabric)
        assert all(isfinite(value) for value in metrics.values())
    adapters, (adapted, plain) = 0, (trainer.lightning_module.policy.model for trainer in trainers)
    parameters = dict(adapted.named_parameters())
    for name, weight in plain.named_parameters():
        path = name.removesuffix(".weight")
        if f"{path}.lora_A.default.weight" in parameters:
            a, b = (parameters[f"{path}.lora_{each}.default.weight"] for each in "AB")
            torch.testing.assert_close(a.grad, 2 * b.t() @ weight.grad, rtol=1e-8, atol=1e-11, msg=f"A of {path}")
            torch.testing.assert_close(b.grad, 2 * weight.grad @ a.t(), rtol=1e-8, atol=1e-11, msg=f"B of {path}")
            assert b.grad.abs().max() > 1e-6
            adapters += 1
    assert adapters == 14
