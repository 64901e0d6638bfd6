"""Learning rate schedules that do not fit the run are found at its start."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from lightning.fabric import Fabric
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR, SequentialLR

from rence_lightning.errors import PartError, UserError
from rence_lightning.training.optimizer_step import OptimizerStep

UPDATES = 4  # two iterations of two updates


def fit(run_dir: Path, schedule: Callable[[Any], Any]) -> list[float]:
    """Trains, and returns the learning rates."""
    fresh_start()
    module = make_module(lr_scheduler=schedule)
    trainer = make_trainer(run_dir, max_iterations=2)
    trainer.fit(module, make_data(prompts_per_update=3))
    assert trainer.global_step == UPDATES
    return [group["lr"] for group in trainer.optimizers[0].param_groups]


@pytest.mark.parametrize(
    ("schedule", "still"),
    [
        (lambda each: LinearLR(each, 1.0, 0.0, total_iters=2), "2 of the run's 4 updates, first in update 3"),
        (lambda each: LambdaLR(each, lambda step: float(step != 2)), "1 of the run's 4 updates, first in update 3"),
        (lambda each: LinearLR(each, 1.0, 0.0, total_iters=4), None),
        (lambda each: LambdaLR(each, lambda step: step / 4), None),  # a warm-up that begins at 0
        (lambda each: OneCycleLR(each, 1e-5, total_steps=4), None),
        (lambda each: lr_scheduler.CosineAnnealingLR(each, T_max=4), None),
    ],
)
def test_a_rate_of_zero_is_said(
    schedule: Callable[[Any], Any], still: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    module = make_module(lr_scheduler=schedule)
    module.configure_model()
    optimizer, scheduler = module.configure_optimizers(UPDATES)
    untouched = schedule(torch.optim.AdamW([torch.zeros(1)], lr=1e-4, betas=(0.9, 0.95)))
    assert scheduler.state_dict()["_step_count"] == untouched._step_count, "the trial has moved the schedule"
    assert optimizer.param_groups[0]["lr"] == untouched.get_last_lr()[0]
    said = [str(each.message) for each in recwarn if "learning rate is 0" in str(each.message)]
    assert len(said) == (still is not None) and (still is None or still in said[0])


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (lambda each: OneCycleLR(each, 1e-5, total_steps=3), "in update 4 of the run's 4: Tried to step 4 times"),
        (lambda each: lr_scheduler.CosineAnnealingLR(each, T_max=0), "in update 1 of the run's 4: integer modulo"),
        (lambda each: lr_scheduler.ExponentialLR(each, -1.0), "update 1 of .*: the learning rate is -0.0001"),
        (lambda each: LambdaLR(each, lambda step: math.inf**step), "update 1 of .*: .* is inf"),
        (lambda each: LambdaLR(each, lambda step: float("nan") if step == 3 else 1.0), "update 3 .*: .* nan"),
    ],
)
def test_a_schedule_that_fails_in_the_run_is_an_error_before_it(
    schedule: Callable[[Any], Any], words: str, tmp_path: Path
) -> None:
    advice = "give it as many steps as updates, or fix it"
    with pytest.raises(UserError, match=rf"model: lr_scheduler: .*{words}.*; {advice}"):
        fit(tmp_path / "run", schedule)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_is_named_whatever_it_raises() -> None:
    for make, words in (
        (lambda each: torch.optim.Adam(each, fused=True, foreach=True), "`fused` and `foreach` cannot"),
        (lambda each: torch.optim.Adam(each, lr=-1), "Invalid learning rate"),
    ):
        module = make_module(optimizer=make)
        module.configure_model()
        with pytest.raises(UserError, match=f"^model: optimizer or lr_scheduler: {words}"):
            module.configure_optimizers(UPDATES)
    step = OptimizerStep(Fabric(accelerator="cpu", devices=1), None, "stop")
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    with pytest.raises(PartError, match=r"^torch\.optim\.lbfgs\.LBFGS, step\(\): raised TypeError: .*'closure'"):
        step.take(step._fabric.setup_optimizers(torch.optim.LBFGS([weight])), None, 1.0, "update")


def test_a_schedule_of_parts_is_tried_too(tmp_path: Path) -> None:
    def parts(optimizer: Any) -> Any:
        first = LinearLR(optimizer, 0.5, total_iters=2)
        return SequentialLR(optimizer, [first, lr_scheduler.ExponentialLR(optimizer, 0.5)], milestones=[2])

    assert fit(tmp_path / "run", parts) == pytest.approx([1e-4 / 4])
