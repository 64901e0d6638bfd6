"""float16 with a scaled loss: true gradients and norms, and an overflow costs one update and nothing else."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from arithmetic_run import assert_same, fresh_start, make_data, make_module, make_trainer, state_of
from lightning.fabric import Fabric
from test_update_gradient import make_groups
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from two_processes import in_two_processes, whole

from rence_lightning.callbacks import Callback, Checkpoint
from rence_lightning.errors import NonFiniteError, PartError, UserError
from rence_lightning.objectives import MultiLabelNCE
from rence_lightning.policy import LoRA, PackedRow, Segment, load_policy
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.optimizer_step import OptimizerStep
from rence_lightning.training.strategy import FullyShardStrategy
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update


def scaler_of(fabric: Fabric | Trainer) -> GradScaler:
    scaler = fabric.strategy.precision.scaler  # type: ignore[attr-defined]
    assert isinstance(scaler, GradScaler) and scaler.get_growth_interval() == 100
    return scaler


def set_scale(fabric: Fabric | Trainer, scale: float) -> None:
    scaler = scaler_of(fabric)
    scaler.load_state_dict({**scaler.state_dict(), "scale": scale, "_growth_tracker": 0})


class SetsScale(Callback):
    """Sets the scale before chosen updates, counted from 1 over the run, and records what the updates do."""

    def __init__(self, scales: dict[int, float]) -> None:
        self.scales = scales
        self.before: list[Tensor] = []
        self.moved: list[bool] = []
        self.after: list[float] = []
        self.finite: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, module: PolicyModule, batch: Any, batch_idx: int) -> None:
        if (scale := self.scales.get(trainer.global_step + 1)) is not None:
            set_scale(trainer, scale)
        self.before = [parameter.detach().clone() for parameter in module.policy.parameters()]

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        pairs = zip(self.before, module.policy.parameters(), strict=True)
        self.moved.append(not all(torch.equal(one, other) for one, other in pairs))
        self.after.append(scaler_of(trainer).get_scale())
        self.finite.append(math.isfinite(outputs["grad_norm"]))


@pytest.mark.parametrize(("tokens", "lora"), [(60, None), (10_000, LoRA(r=4))], ids=["all-weights", "adapters"])
def test_the_gradient_and_its_norm_are_those_of_float32(tokens: int, lora: LoRA | None, tmp_path: Path) -> None:
    gradients, norms = [], []
    for precision in ("32-true", "16-mixed"):
        fresh_start()
        trainer = make_trainer(tmp_path / precision, precision=precision, max_iterations=0, micro_batch_tokens=tokens)
        module = make_module(lora=lora, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.0, fused=True))
        trainer.fit(module, make_data())
        if lora is not None:
            for name, parameter in module.policy.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
        groups = make_groups(module)
        scale = 2.0**10 if precision == "16-mixed" else 1.0
        if precision == "16-mixed":
            set_scale(trainer, scale)
        for _ in range(2):  # at the same weights: the learning rate is 0
            metrics = Update(groups, tokens).backward(module, trainer.fabric)
            gradient = [each.grad for each in module.policy.parameters() if each.requires_grad]
            gradients.append(torch.cat([each.flatten() for each in gradient if each is not None]) / scale)
            figures = trainer.step.take(trainer.optimizers[0], None, metrics["loss"], "update")
            norms.append(figures["grad_norm"])
        assert trainer.step.overflowed == trainer.step.skipped == 0
        assert figures.get("loss_scale", 1.0) == scale
    exact = gradients[0]
    assert torch.equal(gradients[2], gradients[3]) and norms[2] == norms[3], "a gradient was left over"
    assert not torch.equal(gradients[2], exact), "nothing was computed in float16"
    assert float((gradients[2] - exact).norm() / exact.norm()) < 0.02
    assert norms[2] == pytest.approx(float(gradients[2].double().norm()), rel=1e-5), (
        "not the norm of the unscaled gradient"
    )
    assert norms[2] == pytest.approx(norms[0], rel=0.01)


def test_an_overflow_is_skipped_and_counted_and_the_next_update_is_taken(tmp_path: Path) -> None:
    fresh_start()
    scales = SetsScale({1: 2.0**60, 2: 2.0**10, 5: 2.0**60, 6: 2.0**10})
    trainer = make_trainer(tmp_path / "run", [scales], precision="16-mixed", on_nonfinite="stop")
    schedule = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 + step)  # noqa: E731
    trainer.fit(make_module(lr_scheduler=schedule), make_data(prompts_per_update=2))
    taken = [False, True, True, True, False, True]  # in two iterations
    assert scales.moved == taken and scales.finite == taken
    assert scales.after == [2.0**59, 2.0**10, 2.0**10, 2.0**10, 2.0**59, 2.0**10]
    assert trainer.step.overflowed == 2 and trainer.step.skipped == 0
    assert trainer.global_step == 6, "a skipped update is an update"
    assert trainer.scheduler is not None and trainer.scheduler.last_epoch == 4
    logged = trainer.callback_metrics
    assert float(logged["train/updates_overflowed"]) == 2
    assert all(torch.isfinite(value) for name, value in logged.items() if name.startswith("iteration/"))
    assert 0 < trainer.lightning_module.trust_region.kl_coef < 1


def test_float16_parameters_are_refused_and_a_float16_base_of_adapters_is_not(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", precision="16-mixed")
    with pytest.raises(UserError, match=r"set model\.dtype to float32"):
        trainer.fit(make_module(dtype="float16"), make_data())
    fresh_start()
    trainer = make_trainer(tmp_path / "adapters", precision="16-mixed", max_iterations=1)
    trainer.fit(make_module(dtype="float16", lora=LoRA(r=4)), make_data())
    assert trainer.step.skipped == 0 and trainer.global_step == 2 > trainer.step.overflowed


class Infinite(MultiLabelNCE):
    """A finite loss whose gradient is not."""

    def loss(self, groups: Any, totals: Any) -> Tensor:
        loss = super().loss(groups, totals)
        if loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss


def test_endless_overflow_ends_the_run(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", precision="16-mixed", on_nonfinite="skip", max_iterations=1)
    with pytest.raises(NonFiniteError, match=r"10 updates in a row were skipped: .*at a loss scale of 64, .*bf16"):
        trainer.fit(make_module(objective=Infinite()), make_data(prompts_per_iteration=12, prompts_per_update=1))
    assert trainer.step.overflowed == 10 and trainer.step.skipped == 0


def test_a_loss_that_is_not_finite_is_no_overflow_of_the_scale(tmp_path: Path) -> None:
    class Broken(MultiLabelNCE):
        def loss(self, groups: Any, totals: Any) -> Tensor:
            return super().loss(groups, totals) * float("nan")

    fresh_start()
    trainer = make_trainer(tmp_path / "run", precision="16-mixed", max_iterations=1)
    with pytest.raises(NonFiniteError, match="update 1: the loss is nan"):
        trainer.fit(make_module(objective=Broken()), make_data())
    assert trainer.step.skipped == 1 and trainer.step.overflowed == 0


def test_a_resumed_run_continues_with_its_scale(tmp_path: Path) -> None:
    """The scale is still falling when the checkpoint is saved, so that a run without it would take other updates."""

    def run(run_dir: Path, iterations: int, **settings: Any) -> Trainer:
        fresh_start()
        callbacks = [Checkpoint(every=2), SetsScale({1: 2.0**25})]
        trainer = make_trainer(run_dir, callbacks, precision="16-mixed", max_iterations=iterations)
        trainer.fit(make_module(), make_data(), **settings)
        return trainer

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "run", 2)
    resumed = run(tmp_path / "run", 4, ckpt_path="last")
    assert_same(state_of(tmp_path / "run"), state_of(tmp_path / "whole"))
    assert resumed.step.overflowed == whole.step.overflowed > 4, "nothing overflowed after the checkpoint"
    assert resumed.global_step > whole.step.overflowed, "no update was taken"


def test_an_iteration_is_not_finished_in_another_precision(tmp_path: Path) -> None:
    class Interrupts(Callback):
        def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
            raise RuntimeError("stopped")

    def run(precision: str, callbacks: list[Any], ckpt_path: str | None = None) -> None:
        fresh_start()
        trainer = make_trainer(tmp_path / "run", [Checkpoint(every=10), *callbacks], precision=precision)
        trainer.session.config_yaml = yaml.safe_dump({"trainer": {"precision": precision}})
        trainer.fit(make_module(), make_data(), ckpt_path=ckpt_path)

    with pytest.raises(PartError, match="stopped"):
        run("bf16-mixed", [Interrupts()])
    with pytest.raises(UserError, match="in the middle of an iteration"):
        run("16-mixed", [], ckpt_path="last")


def test_sums_of_float16_products_are_not_in_float16() -> None:
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    make_fabric("cpu", 1, 1, "auto", "16-mixed")
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction


def compare_with_one_process(rank: int, offload: bool) -> None:
    """Runs in each of two processes: each has a row of its own, and the update is that of both rows."""
    rows = [
        PackedRow([Segment([5, 6], [[6, 7, 8], [9, 4]])], torch.device("cpu")),
        PackedRow([Segment([7, 5, 3], [[4, 4, 6, 9]])], torch.device("cpu")),
    ]
    reference = load_policy("embedded:arithmetic")
    sum(reference(row).log_probs.sum() for row in rows).backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    fabric = make_fabric("cpu", 2, 1, FullyShardStrategy(cpu_offload=offload), "16-mixed")
    fabric.launch()
    policy = load_policy("embedded:arithmetic", empty=rank > 0)
    before = {name: parameter.detach().clone() for name, parameter in reference.named_parameters()}
    wrapped = fabric.setup_module(policy)
    # With such settings the step g x lr / (|g| + eps) is the gradient itself.
    adam = torch.optim.AdamW(policy.parameters(), lr=1e6, eps=1e6, betas=(0.0, 0.0), weight_decay=0.0, fused=True)
    optimizer = fabric.setup_optimizers(adam)
    step = OptimizerStep(fabric, None, "stop")

    def update(overflows: bool) -> dict[str, float]:
        with fabric.autocast():
            loss = wrapped(rows[rank]).log_probs.sum()
        fabric.backward(loss * 2)
        if overflows:
            next(policy.parameters()).grad.to_local()[0, 0] = float("inf")  # type: ignore[union-attr]
        return step.take(optimizer, None, 0.0, "update")

    set_scale(fabric, 2.0**10)
    update(overflows=rank == 1)  # in the shard of one process alone
    assert step.overflowed == 1 and scaler_of(fabric).get_scale() == 2**9, "the processes must skip together"
    for name, parameter in policy.named_parameters():
        assert torch.equal(whole(parameter.detach()), before[name]), "a skipped update moved the weights"
    figures = update(overflows=False)
    assert step.overflowed == 1 and figures["loss_scale"] == 2**9
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()  # type: ignore[union-attr]
    assert figures["grad_norm"] == pytest.approx(float(norm), rel=0.01)
    for name, parameter in policy.named_parameters():
        moved, gradient = before[name] - whole(parameter.detach()).cpu(), expected[name]
        assert gradient is not None
        assert float((moved - gradient).norm() / gradient.norm()) < 0.03, name


@pytest.mark.slow
@pytest.mark.parametrize("offload", [False, True], ids=["shards", "offload"])
def test_two_processes_skip_together_and_take_the_step_of_one(offload: bool) -> None:
    in_two_processes(compare_with_one_process, offload)
