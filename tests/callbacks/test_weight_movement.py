"""What a run says about the weights that compute: against all weights, read independently of the callback."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from torch import Tensor
from two_processes import in_two_processes

from rence_lightning.callbacks import Callback, Checkpoint, WeightMovement
from rence_lightning.callbacks.weight_movement import sampled
from rence_lightning.distributed import sum_over_ranks
from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA, load_policy
from rence_lightning.sampling.groups import Group
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import FullyShardStrategy
from rence_lightning.training.trainer import Trainer

EVERYTHING = 10**9


class Whole(Callback):
    """All trained weights of pi_old and after the last update, as they are and as autocast rounds them."""

    def __init__(self) -> None:
        self.old: tuple[Tensor, Tensor] | None = None
        self.new: tuple[Tensor, Tensor] | None = None

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: Any) -> None:
        self.old = self.read(trainer, module)

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        self.new = self.read(trainer, module)

    def read(self, trainer: Trainer, module: PolicyModule) -> tuple[Tensor, Tensor]:
        def weights() -> Tensor:
            return torch.cat([each.detach().flatten() for each in module.policy.parameters() if each.requires_grad])

        types = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        rounded = weights().to(types[trainer.precision]).double()
        with trainer.masters():
            return weights().double(), rounded

    def figures(self) -> tuple[float, float]:
        assert self.old is not None and self.new is not None
        step, seen = self.new[0] - self.old[0], self.new[1] - self.old[1]
        return float((seen != 0).double().mean()), float((seen * step).sum() / (step * step).sum())


def run(
    run_dir: Path, learning_rate: float, sample: int = EVERYTHING, model: dict[str, Any] | None = None, **trainer: Any
) -> tuple[float, float, tuple[float, float]]:
    """An iteration of two updates; the figures of the log, and those of all weights."""
    fresh_start()
    whole = Whole()
    made = make_trainer(run_dir, [whole, WeightMovement(sample)], max_iterations=1, **trainer)
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)  # noqa: E731
    made.fit(make_module(optimizer=optimizer, **(model or {})), make_data())
    logged = made.callback_metrics
    return float(logged["iteration/weights_changed"]), float(logged["iteration/movement_seen"]), whole.figures()


def test_float32_shows_all_of_the_movement(tmp_path: Path) -> None:
    changed, seen, exact = run(tmp_path / "run", 1e-6)
    assert (changed, seen) == pytest.approx(exact, rel=1e-6)
    assert seen == pytest.approx(1.0, abs=1e-6) and changed > 0.9


def test_bfloat16_hides_a_small_step_from_weights_on_its_grid(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"iteration 1: .* bf16-mixed rounds the rest away.*docs/precision.md"):
        changed, seen, exact = run(tmp_path / "run", 1e-6, precision="bf16-mixed")
    assert (changed, seen) == pytest.approx(exact, rel=1e-6)
    assert 0 < changed < 0.1 and 0 < seen < 0.2, "the embedded policy is stored in bfloat16"


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_stochastic_rounding_shows_it(precision: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="iteration 1: the weights")
        changed, seen, exact = run(tmp_path / "run", 1e-5, precision=precision, rounding="stochastic")
    assert (changed, seen) == pytest.approx(exact, rel=1e-6)
    assert seen == pytest.approx(1.0, abs=0.1) and 0 < changed < 0.7


def test_of_adapters_their_own_weights_are_compared(tmp_path: Path) -> None:
    changed, seen, exact = run(tmp_path / "run", 1e-5, model={"lora": LoRA(r=4)}, precision="bf16-mixed")
    assert (changed, seen) == pytest.approx(exact, rel=1e-6)
    assert seen > 0.2


def test_a_sample_estimates_the_figures_of_all_weights(tmp_path: Path) -> None:
    changed, seen, exact = run(tmp_path / "run", 3e-5, sample=100_000, precision="bf16-mixed")
    assert exact[0] > 0.05
    assert (changed, seen) == pytest.approx(exact, rel=0.1) and (changed, seen) != exact


def test_the_warning_comes_once_also_when_the_run_is_resumed(tmp_path: Path) -> None:
    def count(iterations: int, **settings: Any) -> int:
        fresh_start()
        callbacks = [WeightMovement(), Checkpoint(every=1)]
        trainer = make_trainer(tmp_path / "run", callbacks, precision="bf16-mixed", max_iterations=iterations)
        optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.0)  # noqa: E731
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(make_module(optimizer=optimizer), make_data(), **settings)
        return sum("hardly see" in str(each.message) for each in caught)

    assert [count(2), count(3, ckpt_path="last")] == [1, 0]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"sample \(-1\) must be >= 0"):
        WeightMovement(sample=-1)
    with pytest.raises(UserError, match=r"warn_below \(1\.5\) from 0 to 1"):
        WeightMovement(warn_below=1.5)


def compare_with_one_process(rank: int) -> None:
    """Runs in each of two processes: together they draw the weights that one process draws."""
    reference = load_policy("embedded:arithmetic")
    fabric = make_fabric("cpu", 2, 1, FullyShardStrategy(), "bf16-mixed")
    fabric.launch()
    policy = load_policy("embedded:arithmetic", empty=rank > 0)
    fabric.setup_module(policy)
    for size in (5000, EVERYTHING):
        alone = sampled(list(reference.parameters()), size)
        ours = sampled(list(policy.parameters()), size)
        assert 0 < sum(len(indices) for _, indices in ours) < sum(len(indices) for _, indices in alone)
        for (weights, indices), (shard, own) in zip(alone, ours, strict=True):
            drawn, mine = weights[indices].double(), shard[own].double()
            count, total, squares = sum_over_ranks(len(own), float(mine.sum()), float(mine.square().sum()))
            assert count == len(indices)
            assert total == pytest.approx(float(drawn.sum()), rel=1e-12, abs=1e-12)
            assert squares == pytest.approx(float(drawn.square().sum()), rel=1e-12)


@pytest.mark.slow
def test_two_processes_draw_the_sample_of_one() -> None:
    in_two_processes(compare_with_one_process)
