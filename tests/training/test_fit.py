"""A short run of the embedded policy, and all the files that it writes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import (
    finishing_callbacks,
    fresh_start,
    make_data,
    make_module,
    make_trainer,
    small_evaluation,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from rence_lightning.callbacks import Callback, Checkpoint, ExportPolicy, OldPolicySnapshot, Progress
from rence_lightning.errors import NonFiniteError, UserError
from rence_lightning.objectives import MultiLabelNCE
from rence_lightning.policy import export_policy
from rence_lightning.prompts import ArithmeticProblems
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    fresh_start()
    folder = tmp_path_factory.mktemp("fit") / "run"
    callbacks = [Progress(), small_evaluation(every=3), ExportPolicy(), Checkpoint(every=3)]
    trainer = make_trainer(folder, callbacks, max_iterations=4)
    trainer.fit(make_module(), make_data(prompts_per_iteration=16, prompts_per_update=8, prompts_per_draw=24))
    return folder, trainer


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_exported_policy_answers_with_plain_transformers(run: tuple[Path, Trainer]) -> None:
    folder = run[0] / "hf"
    policy = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    solved = 0
    for problem in ArithmeticProblems("test", count=20).load():
        prompt = tokenizer(f"{problem.problem}\n", return_tensors="pt")
        answer = policy.generate(**prompt, max_new_tokens=64, do_sample=False)
        solved += f"\\boxed{{{problem.answer}}}" in tokenizer.decode(answer[0], skip_special_tokens=True)
    assert solved >= 12, "greedy answers of the exported policy are worse than those of the policy it started from"


def test_validate_of_the_export_and_of_the_checkpoint_repeat_the_last_evaluation(
    run: tuple[Path, Trainer], tmp_path: Path
) -> None:
    last = evaluations(run[0])[-1]["benchmarks"]["arithmetic"]
    for name, policy, ckpt_path in (
        ("export", str(run[0] / "hf"), None),
        ("checkpoint", "embedded:arithmetic", str(run[0] / "checkpoints" / "last")),
    ):
        trainer = make_trainer(tmp_path / name, [Progress(), small_evaluation()])
        trainer.validate(make_module(policy=policy), make_data(), ckpt_path=ckpt_path)
        (line,) = evaluations(tmp_path / f"{name}-validate")
        figures = line["benchmarks"]["arithmetic"]
        assert {key: figures[key] for key in ("avg", "std", "pass", "length")} == pytest.approx(
            {key: last[key] for key in ("avg", "std", "pass", "length")}
        ), f"validate of the {name} differs from the evaluation in training, with the same random streams"


def test_run_directory_holds_all_of_the_run(run: tuple[Path, Trainer]) -> None:
    folder, trainer = run
    files = {"run.json", ".lock", "metrics.csv", "training_problems.json", "evaluations.jsonl"}
    folders = {"tensorboard", "rollouts", "checkpoints", "hf", "evaluations"}
    assert {path.name for path in folder.iterdir()} == files | folders
    assert any((folder / "tensorboard").glob("events.*"))
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    updates = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in updates] == list(range(1, trainer.global_step + 1))
    first = updates[0]
    assert float(first["train/kl"]) == pytest.approx(0, abs=1e-6), "at pi_old the KL is 0"
    assert float(first["train/positive_log_ratio"]) == pytest.approx(0, abs=1e-4)
    for column in ("train/grad_norm", "train/kl_coef", "train/learning_rate", "train/negative_log_ratio"):
        assert all(row[column] for row in updates), f"{column} must be there once an update"
    assert [int(row["iteration"]) for row in updates] == [1 + index // 2 for index in range(len(updates))]
    iterations = [row for row in rows if row["rollouts/reward"]]
    assert [int(row["iteration"]) for row in iterations] == [1, 2, 3, 4]
    assert [line["iteration"] for line in evaluations(folder)] == [0, 3, 4]
    assert len(rows) == len(updates) + len(iterations) + 3, "a row an update, an iteration and an evaluation"
    for column in ("rollouts/share_kept", "rollouts/entropy", "rollouts/mismatch_abs"):
        assert sum(bool(row[column]) for row in rows) == 4, f"{column} must be there once an iteration"


def test_rollout_log_says_what_was_sampled_and_why_it_was_kept(run: tuple[Path, Trainer]) -> None:
    lines = (run[0] / "rollouts" / "iteration-0003.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert sum(row["outcome"] == "kept" for row in rows) == 16
    for row in rows:
        correct = sum(response["correct"] for response in row["responses"])
        assert len(row["responses"]) == 8
        expected = "mastered" if correct > 6.4 else "too_easy" if correct > 4 else "kept" if correct else "too_hard"
        assert row["outcome"] == expected
        for response in row["responses"]:
            assert response["reward"] == (1.0 if response["correct"] else 0.0 if response["answer"] is None else 0.1)
            assert response["positive"] == response["correct"]


def test_engine_and_recomputed_log_probs_train_alike(tmp_path: Path) -> None:
    """In float32 the engine's log-probabilities are the trainer's, so either source gives the same policy."""
    weights = []
    for source in ("recompute", "engine"):
        fresh_start()
        trainer = Trainer(
            run_dir=str(tmp_path / source),
            max_iterations=2,
            accelerator="cpu",
            devices=1,
            callbacks=[OldPolicySnapshot(source)],
        )
        trainer.fit(make_module(), make_data())
        weights.append([parameter.detach() for parameter in trainer.lightning_module.policy.parameters()])
    for recomputed, engine in zip(*weights, strict=True):
        torch.testing.assert_close(recomputed, engine, rtol=0, atol=2e-5)


def test_without_a_snapshot_of_pi_old_the_run_says_what_is_missing(tmp_path: Path) -> None:
    fresh_start()
    trainer = Trainer(run_dir=str(tmp_path / "run"), accelerator="cpu", devices=1, callbacks=[Progress()])
    with pytest.raises(UserError, match=r"no callback takes the log-probabilities of pi_old; add .*OldPolicySnapshot"):
        trainer.fit(make_module(), make_data())
    assert not (tmp_path / "run").exists(), "the error must come before the run directory is created"


def test_bf16_trains(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", finishing_callbacks(), precision="bf16-mixed", max_iterations=1)
    trainer.fit(make_module(gradient_checkpointing=True), make_data())
    assert trainer.global_step == 2
    assert all(parameter.dtype == torch.float32 for parameter in trainer.lightning_module.policy.parameters())
    assert 0 < float(trainer.callback_metrics["rollouts/mismatch_abs"]) < 0.05


def test_a_gradient_that_is_not_finite_stops_or_is_skipped(tmp_path: Path) -> None:
    class Broken(MultiLabelNCE):
        def loss(self, groups: Any, totals: Any) -> torch.Tensor:
            return super().loss(groups, totals) * float("nan")

    before = make_module()
    before.configure_model()
    for action in ("stop", "skip"):
        fresh_start()
        trainer = make_trainer(tmp_path / action, on_nonfinite=action, max_iterations=1)
        if action == "stop":
            with pytest.raises(NonFiniteError, match="iteration 1, update 1: the loss is nan, the gradient's norm nan"):
                trainer.fit(make_module(objective=Broken()), make_data())
        else:
            trainer.fit(make_module(objective=Broken()), make_data())
            assert trainer.step.skipped == 2
        for old, new in zip(before.policy.parameters(), trainer.lightning_module.policy.parameters(), strict=True):
            assert torch.equal(old, new), "a broken update must leave the policy as it was"


def test_a_policy_that_stays_broken_ends_the_run(tmp_path: Path) -> None:
    """Skipping is meant for a rare bad batch; ten in a row mean a broken policy, and kl_coef must not adapt to it."""

    class Breaks(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, module: PolicyModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            with torch.no_grad():
                module.policy.model.model.norm.weight.fill_(float("nan"))

    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Breaks()], on_nonfinite="skip", max_iterations=1)
    with pytest.raises(NonFiniteError, match="10 updates in a row"):
        trainer.fit(make_module(), make_data(prompts_per_iteration=12, prompts_per_update=1))
    assert 0 < trainer.lightning_module.trust_region.kl_coef < 1
    assert trainer.step.skipped == 10


def test_dropout_is_off(tmp_path: Path) -> None:
    """At pi_old the ratio is 1; dropout would make pi_theta another network than pi_old."""
    source = make_module()
    source.configure_model()
    source.policy.model.config.attention_dropout = 0.5
    export_policy(source.policy, tmp_path / "dropout")
    module = make_module(policy=str(tmp_path / "dropout"))
    fresh_start()
    trainer = make_trainer(tmp_path / "run", max_iterations=2)
    trainer.fit(module, make_data())
    assert module.policy.model.config.attention_dropout == 0
    assert float(trainer.callback_metrics["rollouts/mismatch_abs"]) < 1e-5


def test_the_engines_log_probs_are_refused_where_they_are_not_the_trainers(tmp_path: Path) -> None:
    trainer = Trainer(
        run_dir=str(tmp_path / "run"), accelerator="cpu", devices=1, precision="bf16-mixed",
        callbacks=[OldPolicySnapshot("engine")],
    )  # fmt: skip
    with pytest.raises(UserError, match="set source to recompute"):
        trainer.fit(make_module(), make_data())
    assert not (tmp_path / "run").exists(), "a run that cannot start must leave nothing behind"


def test_brackets_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh_start()
    make_trainer(tmp_path / "run[/i][a,b]", [Progress()], max_iterations=0).fit(make_module(), make_data())
    assert "run[/i][a,b]" in capsys.readouterr().out
