"""The warm start: its loss and gradient against plain transformers, however an update is cut up; its runs, resumed,
with adapters, on two ranks; and that `fit` goes on from it."""

import csv
import json
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from arithmetic_run import assert_same, fresh_start, make_data, make_module, small_evaluation, state_of
from safetensors.torch import load_file
from tiny_models import in_float64
from torch import Tensor
from two_processes import in_two_processes

from rence_lightning import fit, warmup
from rence_lightning.callbacks import Callback, Checkpoint, ExportPolicy, Progress
from rence_lightning.errors import Stopped, UserError
from rence_lightning.policy import LoRA
from rence_lightning.prompts import ArithmeticProblems
from rence_lightning.sampling.demonstrations import DemonstrationDataModule
from rence_lightning.training import FullyShardStrategy, Trainer
from rence_lightning.training.update import Update
from rence_lightning.training.warmup import DemonstrationModule

PROBLEMS = 7


def warm_up(
    run_dir: Path, *callbacks: Any, epochs: int = 2, ckpt_path: str | None = None, module: Any = None, **settings: Any
) -> Trainer:
    """A warm start with three updates in an epoch."""
    fresh_start()
    settings = {"accelerator": "cpu", "devices": 1, "micro_batch_tokens": 100, **settings}
    trainer = Trainer(epochs, str(run_dir), callbacks=[*callbacks, Checkpoint(every=1)], **settings)
    data = make_data(DemonstrationDataModule, problems=[ArithmeticProblems("train", count=PROBLEMS)])
    trainer.fit(make_module(DemonstrationModule, **(module or {})), data, ckpt_path)
    return trainer


def weights(run_dir: Path) -> dict[str, Tensor]:
    return load_file(run_dir.with_name(f"{run_dir.name}-warmup") / "hf" / "model.safetensors")


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if value and not name.startswith("time/")}
            for row in csv.DictReader(file)
        ]


# ---- the gradient of an update ---------------------------------------------------------------------------------------


def plain(model: Any, tokenizer: Any) -> Tensor:
    """The mean of the cross-entropy over all response tokens, one row at a time, from the problems as they are."""
    losses = []
    for problem in ArithmeticProblems("train", count=PROBLEMS).load():
        prompt, solution = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (f"{problem.problem}\n", problem.solution)
        )
        ids = torch.tensor([*prompt, *solution, tokenizer.eos_token_id])
        labels = ids.clone()
        labels[: len(prompt)] = -100
        losses.append(F.cross_entropy(model(ids[None]).logits[0, :-1], labels[1:], reduction="none")[len(prompt) - 1 :])
    return torch.cat(losses).mean()


@pytest.mark.parametrize(("budget", "ranks"), [(10_000, 1), (60, 1), (1, 1), (60, 2)])
@pytest.mark.parametrize("attention", [None, "sdpa"], ids=["packed", "padded"])
def test_the_gradient_of_an_update_is_that_of_plain_transformers(
    attention: str | None, budget: int, ranks: int, tmp_path: Path
) -> None:
    trainer = warm_up(
        tmp_path / "run", epochs=0, module={"attn_implementation": attention, "lora": None}, precision="64-true"
    )
    module, data = trainer.lightning_module, trainer.datamodule
    policy = in_float64(module.policy)
    assert policy.packed == (attention is None)
    loss = plain(policy.model, data.tokenizer)
    loss.backward()
    expected = [parameter.grad.clone() for parameter in policy.parameters()]
    module.zero_grad()
    groups = list(data.demonstrations.values())
    updates = [Update(groups, budget, rank, ranks, packed=policy.packed) for rank in range(ranks)]
    assert (len(updates[0].micro_batches) > 1) == (budget < 10_000)
    losses = [update.backward(module, trainer.fabric)["loss"] for update in updates]
    assert sum(losses) == pytest.approx(loss.item(), abs=1e-7)
    for parameter, gradient in zip(policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-11)


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_an_epoch_takes_every_demonstration_once_in_a_new_order(tmp_path: Path) -> None:
    taken: list[list[str]] = []

    class Taken(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            taken.append([group.responses[0] for group in batch])

    warm_up(tmp_path / "run", Taken())
    assert [len(each) for each in taken] == [2, 2, 3] * 2, "three updates, as even as they can be"
    epochs = [[*chain(*taken[:3])], [*chain(*taken[3:])]]
    solutions = {problem.solution for problem in ArithmeticProblems("train", count=PROBLEMS).load()}
    assert {*epochs[0]} == {*epochs[1]} == solutions and epochs[0] != epochs[1]
    logged = {name for row in rows(tmp_path / "run-warmup") for name in row}
    assert {"train/loss", "train/tokens", "iteration/loss"} <= logged
    assert not any(name.startswith("rollouts/") or name.endswith(("kl", "log_ratio")) for name in logged)


class Stops(Callback):
    """Interrupts the run in the update of this number, in which it finishes the update and saves."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step + 1 == self.update:
            trainer._stop_request.signal = signal.SIGTERM


@pytest.mark.parametrize(("update", "name"), [(2, "iteration-0000-update-0002"), (4, "iteration-0001-update-0001")])
def test_a_resumed_run_is_the_uninterrupted_one(update: int, name: str, tmp_path: Path) -> None:
    warm_up(tmp_path / "whole")
    with pytest.raises(Stopped):
        warm_up(tmp_path / "parts", Stops(update))
    assert (tmp_path / "parts-warmup" / "checkpoints" / "last").resolve().name == name
    warm_up(tmp_path / "parts", ckpt_path="last")
    assert_same(state_of(tmp_path / "whole-warmup"), state_of(tmp_path / "parts-warmup"))
    assert rows(tmp_path / "whole-warmup") == rows(tmp_path / "parts-warmup")


def test_more_epochs_go_on_in_place(tmp_path: Path) -> None:
    for name, steps in (("whole", (2,)), ("parts", (1, 2))):
        for epochs in steps:
            warm_up(tmp_path / name, epochs=epochs, ckpt_path="last" if epochs > steps[0] else None)
    assert_same(state_of(tmp_path / "whole-warmup"), state_of(tmp_path / "parts-warmup"))


def test_adapters_alone_are_trained(tmp_path: Path) -> None:
    trainer = warm_up(tmp_path / "run", module={"lora": LoRA(r=2)})
    before = make_module(lora=LoRA(r=2))
    before.configure_model()
    parameters = dict(trainer.lightning_module.policy.module.named_parameters())
    changed = {name for name, value in before.policy.named_parameters() if not torch.equal(value, parameters[name])}
    assert changed and all(".lora_" in name for name in changed)
    assert {name for name in parameters if ".lora_B" in name} <= changed


def train_on_two_ranks(rank: int, folder: Path) -> None:
    for name, strategy in (("ddp", "ddp"), ("sharded", FullyShardStrategy())):
        trainer = warm_up(
            folder / name, ExportPolicy(), small_evaluation(repeats=1, limit=2), devices=2, strategy=strategy
        )
        assert trainer.global_step == 6


@pytest.mark.slow
def test_two_ranks_are_as_one(tmp_path: Path) -> None:
    warm_up(tmp_path / "one", ExportPolicy(), small_evaluation(repeats=1, limit=2))
    in_two_processes(train_on_two_ranks, tmp_path)
    expected, held_out = weights(tmp_path / "one"), losses(tmp_path / "one-warmup")
    for name in ("ddp", "sharded"):
        for key, weight in weights(tmp_path / name).items():
            torch.testing.assert_close(weight, expected[key], rtol=0, atol=2e-6, msg=f"{name} {key}")
        assert losses(tmp_path / f"{name}-warmup") == pytest.approx(held_out, abs=1e-5)


def losses(run_dir: Path) -> list[float]:
    """The loss on held-out demonstrations before and after the run."""
    return [float(row["evaluation/loss"]) for row in rows(run_dir) if "evaluation/loss" in row]


def test_the_held_out_loss_is_that_of_plain_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ArithmeticProblems("train", count=PROBLEMS)
    evaluation = small_evaluation(benchmarks={"same": source}, repeats=1, limit=1)
    monkeypatch.setattr("rence_lightning.prompts.Cleaning.clean", keep_all)
    trainer = warm_up(tmp_path / "run", evaluation, epochs=0)
    policy = trainer.lightning_module.policy
    with torch.no_grad():
        expected = plain(policy.model, policy.tokenizer)
    assert losses(tmp_path / "run-warmup") == pytest.approx([float(expected)], abs=1e-5)


def keep_all(self: Any, problems: Any, held_out: Any) -> Any:
    from rence_lightning.prompts import Cleaned

    return Cleaned(list(range(len(problems))))


# ---- from the warm start to fit --------------------------------------------------------------------------------------

SMALL_RUN: dict[str, Any] = {
    "config": "arithmetic",
    "data": {"prompts_per_iteration": 4, "prompts_per_update": 4, "prompts_per_draw": 8},
    "evaluation": {"limit": 8, "repeats": 1},
    "trainer": {"cpu_threads": 1},
}


def test_fit_goes_on_from_the_exported_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the configuration of `fit`, whose sizes and callbacks of rollouts are not those of a warm start."""
    problems = [
        {"problem": each.problem, "answer": each.answer, "solution": each.solution}
        for each in ArithmeticProblems("train", count=40).load()
    ]
    settings = {**SMALL_RUN, "problems": problems, "run_dir": tmp_path / "run"}
    with pytest.warns(UserWarning, match="does not read data.prompts_per_iteration, data.prompts_per_draw; its own"):
        result = warmup(epochs=1, learning_rate=1e-4, **settings)
    assert result.run_dir == tmp_path / "run-warmup" and len(result.curve("train/loss")) == 10
    assert [each["iteration"] for each in result.evaluations] == [0, 1]
    assert "answered" in result.evaluations[-1]["benchmarks"]["arithmetic"]
    assert {rate for _, rate in result.curve("train/learning_rate")} == {1e-4}
    hf = result.run_dir / "hf"
    assert f"--model.policy {hf}" in capsys.readouterr().out
    assert not (result.run_dir / "rollouts").exists()
    assert "maximum likelihood" in (hf / "README.md").read_text()
    page = (result.run_dir / "report.html").read_text()
    assert "Loss on held-out demonstrations" in page
    assert "1 of 1 iterations are done" in page and "MultiLabelNCE" not in page.partition("<details>")[0]
    assert f"rence_lightning fit --config {result.run_dir / 'config.yaml'} --model.policy {hf}" in page
    assert f"rence_lightning warmup --config {result.run_dir / 'config.yaml'}" in page
    then = fit(**{**settings, "policy": hf, "max_iterations": 1})
    assert then.run_dir == tmp_path / "run" and then.evaluations[0]["iteration"] == 0
    digests = [
        json.loads((run / "evaluations" / name / "evaluation.json").read_text())["weights"]
        for run, name in ((result.run_dir, "iteration-0001"), (then.run_dir, "iteration-0000"))
    ]
    assert digests[0] == digests[1], "fit began with other weights than the warm start ended with"
    with pytest.raises(UserError, match=r"is of warmup, not of fit; .* --model.policy .*run-warmup/hf"):
        fit(**{**settings, "ckpt_path": result.run_dir})


def test_a_setting_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="give epochs and learning_rate as arguments"):
        warmup(epochs=1, warmup={"learning_rate": 1e-4}, config="arithmetic")


def test_progress_tells_of_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warm_up(tmp_path / "run", Progress())
    out = capsys.readouterr().out
    assert "iteration   2/2  loss 0." in out and "rollouts" not in out and "kept" not in out
