"""Export at the end of a run: the last or the best policy, its data type, and its model card."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import fresh_start, make_data, make_module, make_trainer, small_evaluation
from command_line import CONF
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rence_lightning.callbacks import Callback, Checkpoint, ExportPolicy
from rence_lightning.errors import UserError
from rence_lightning.run.saved_policy import read_policy
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class Figures(Callback):
    """Replaces the figure by which the best checkpoint is chosen."""

    def __init__(self, *averages: float) -> None:
        self.averages = averages

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        trainer.callback_metrics["evaluation/average"] = torch.tensor(self.averages[trainer.current_epoch])


def fit(run_dir: Path, export: ExportPolicy, averages: tuple[float, ...] = (0.5, 0.9, 0.1), every: int = 1) -> Trainer:
    fresh_start()
    callbacks: list[Any] = [small_evaluation(every=1), Figures(*averages), Checkpoint(every=every, keep_last=3), export]
    trainer = make_trainer(run_dir, callbacks)
    trainer.fit(make_module(), make_data())
    return trainer


def exported(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "hf" / "model.safetensors")


def checkpointed(run_dir: Path, iteration: int) -> dict[str, torch.Tensor]:
    state = read_policy(run_dir / "checkpoints" / f"iteration-{iteration:04d}").model.state_dict()
    return {name: weight for name, weight in state.items() if name in exported(run_dir)}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("which", "iteration", "dtype"), [("last", 2, None), ("best", 1, "bfloat16")])
def test_the_last_or_the_best_policy_is_exported(
    which: Any, iteration: int, dtype: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = fit(tmp_path / "run", ExportPolicy(which=which, dtype=dtype))
    saved = checkpointed(tmp_path / "run", iteration)
    assert_equal(
        exported(tmp_path / "run"),
        {name: weight.to(getattr(torch, dtype or "float32")) for name, weight in saved.items()},
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "hf").dtype == getattr(torch, dtype or "float32")
    card = ModelCard.load(tmp_path / "run" / "hf" / "README.md")
    assert f"after iteration {iteration}," in card.text
    assert ("chosen among 2 evaluations" in card.text) == (which == "best")
    in_memory = trainer.lightning_module.policy.module.model.state_dict()  # type: ignore[operator, union-attr]
    last = checkpointed(tmp_path / "run", 2)
    assert_equal({name: in_memory[name] for name in last}, last)
    assert f"publish it with: hf upload USER/NAME {tmp_path / 'run' / 'hf'}" in capfd.readouterr().out


def test_best_is_refused_at_the_start_of_a_run_without_evaluations(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", [Checkpoint(), ExportPolicy(which="best")])
    with pytest.raises(UserError, match=r"which is best, but the run does not evaluate.*export.which: last"):
        trainer.fit(make_module(), make_data())
    assert trainer.current_epoch == 0 and not list((tmp_path / "run").glob("rollouts/*"))


def test_without_a_best_checkpoint_the_last_policy_is_exported_and_it_says_so(
    tmp_path: Path,
) -> None:
    with pytest.warns(UserWarning, match=r"has no best checkpoint \(checkpoint.every is 0"):
        trainer = fit(tmp_path / "run", ExportPolicy(which="best"), every=0)
    in_memory = trainer.lightning_module.policy.module.model.state_dict()  # type: ignore[operator, union-attr]
    assert_equal(exported(tmp_path / "run"), {name: in_memory[name] for name in exported(tmp_path / "run")})


@pytest.mark.slow
@pytest.mark.parametrize("which", ["last", "best"])
def test_two_sharded_processes_export_a_whole_policy(which: str, tmp_path: Path) -> None:
    options = [
        *(f"--config={CONF / 'arithmetic.yaml'}", f"--trainer.run_dir={tmp_path / 'run'}", "--trainer.devices=2"),
        *("--trainer.strategy=rence_lightning.training.FullyShardStrategy", "--trainer.max_iterations=1"),
        *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--evaluation.limit=8"),
        *(f"--export.which={which}", "--export.dtype=bfloat16", "--report.enabled=false"),
    ]
    command = [sys.executable, "-m", "rence_lightning", "fit", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {name: weight.bfloat16() for name, weight in checkpointed(tmp_path / "run", 1).items()}
    assert_equal(exported(tmp_path / "run"), expected)
    assert json.loads((tmp_path / "run" / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    assert ModelCard.load(tmp_path / "run" / "hf" / "README.md").data.eval_results
