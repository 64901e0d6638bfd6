"""Lightning's own callbacks together with the project's, and the adaptive KL coefficient in a run."""

import csv
import math
import re
from array import array
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from arithmetic_run import fresh_start, make_data, make_module, small_evaluation
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    Timer,
)

from rence_lightning.callbacks import AdaptiveKL, Callback, Checkpoint, OldPolicySnapshot
from rence_lightning.errors import EngineMismatchError, UserError
from rence_lightning.objectives import MultiLabelNCE
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.rollouts import Sampling, TransformersEngine
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.training import hooks
from rence_lightning.training.hooks import HOOKS, INSTEAD, SUPPORTED
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


def fit(
    run_dir: Path, callbacks: list[Any], iterations: int = 4, ckpt_path: str | None = None, **model: Any
) -> Trainer:
    fresh_start()
    trainer = Trainer(
        run_dir=str(run_dir),
        max_iterations=iterations,
        accelerator="cpu",
        devices=1,
        callbacks=[OldPolicySnapshot(), *callbacks],
    )
    trainer.fit(make_module(**model), make_data(), ckpt_path=ckpt_path)
    return trainer


def test_early_stopping_on_an_evaluation(tmp_path: Path) -> None:
    stop = EarlyStopping("evaluation/arithmetic/avg", mode="max", patience=0, min_delta=1.0)
    trainer = fit(tmp_path / "run", [small_evaluation(every=1), stop])
    assert trainer.current_epoch == 1, "no evaluation is better than the first by 100 points"


def test_timer_ends_the_run(tmp_path: Path) -> None:
    assert fit(tmp_path / "run", [Timer(duration=timedelta(milliseconds=1))]).current_epoch == 1


def test_model_summary_and_lambda_callback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    note = LambdaCallback(
        on_train_start=lambda trainer, module: calls.append("start"),
        on_train_epoch_start=lambda trainer, module: calls.append("iteration"),
        on_train_batch_end=lambda trainer, module, outputs, batch, batch_idx: calls.append(f"update {batch_idx}"),
        on_train_end=lambda trainer, module: calls.append("end"),
    )
    with caplog.at_level("INFO"):
        fit(tmp_path / "run", [note, ModelSummary()], iterations=2)
    assert calls == ["start", *(["iteration", "update 0", "update 1"] * 2), "end"]
    assert "496 K" in caplog.text, "the summary must count the policy's parameters"


LIGHTNINGS = [getattr(pl.callbacks, name) for name in pl.callbacks.__all__]


@pytest.mark.parametrize("kind", LIGHTNINGS, ids=lambda kind: str(kind.__name__))
def test_each_of_lightnings_callbacks_is_supported_or_refused_at_the_start(kind: type, tmp_path: Path) -> None:
    """Those that are supported have a test of what they do here."""
    callback = type("Own", (kind,), {"__init__": lambda self: None, "_check_on_train_epoch_end": True})()
    settings = {"run_dir": str(tmp_path / "run"), "accelerator": "cpu", "callbacks": [callback]}
    if kind.__name__ in (*SUPPORTED, "Callback"):
        assert callback in Trainer(**settings).callbacks
        return
    with pytest.raises(UserError, match=f"Lightning's {kind.__name__} is not supported: .* Timer are"):
        Trainer(**settings)


def test_a_refusal_names_what_to_use() -> None:
    assert {*INSTEAD} | {*SUPPORTED} <= {kind.__name__ for kind in LIGHTNINGS}
    for callback, words in {
        ModelCheckpoint(): "use the section `checkpoint`",
        LearningRateMonitor(): "`train/learning_rate`",
    }.items():
        with pytest.raises(UserError, match=words):
            Trainer(accelerator="cpu", callbacks=[callback])


@pytest.mark.parametrize("base", [Callback, pl.Callback], ids=["own", "Lightning's"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("on_rollout_end", "Own.on_rollout_end is never called: no hook has this name (did you mean on_rollouts_end?)"),
        ("on_before_optimizer_step", "(the hooks are on_fit_start, "),
        ("on_rollouts_end", None),
        ("on_test_start", None),
        ("longest", None),
    ],
)
def test_a_method_that_no_hook_is_called_is_refused(base: type, name: str, words: str | None) -> None:
    """Also one that a class in between has: nothing would call it, and nobody would know."""
    between = type("Between", (base,), {name: lambda self, *_: None})
    callback = type("Own", (between,), {})()
    if words is None:
        assert callback in Trainer(accelerator="cpu", callbacks=[callback]).callbacks
        return
    with pytest.raises(UserError, match=re.escape(words)):
        Trainer(accelerator="cpu", callbacks=[callback])


def test_the_hooks_that_are_known_are_those_that_the_code_calls() -> None:
    folder = Path(hooks.__file__).parents[1]
    text = "".join(file.read_text() for room in ("training", "callbacks") for file in (folder / room).glob("*.py"))
    called = {*re.findall(r"\bcall(?:\.after)?\((?:\w+, )?\"(on_\w+)\"", text)}
    assert called == {*HOOKS} >= {name for name in vars(Callback) if name.startswith("on_")}


def test_early_stopping_on_a_figure_of_rollouts_is_checked_when_the_figure_exists(tmp_path: Path) -> None:
    """Lightning checks after an evaluation by default; before the first iteration, there are no rollouts."""
    stop = EarlyStopping("rollouts/truncated", mode="max", patience=1)
    trainer = fit(tmp_path / "run", [small_evaluation(every=1), stop])
    assert trainer.current_epoch == 2


def rows_with(run_dir: Path, column: str) -> list[tuple[int, int, float]]:
    """Step, iteration and value of the rows of metrics.csv that have a column."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(column)]
    return [(int(row["step"]), int(row["iteration"]), float(row[column])) for row in rows]


def test_log_of_the_module_reaches_metrics_and_other_callbacks(tmp_path: Path) -> None:
    class Logs(Callback):
        def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
            module.log("own/longest", torch.tensor(max(len(r.token_ids) for g in batch.groups for r in g.rollouts)))

        def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
            module.log_dict({"own/double": 2 * float(trainer.callback_metrics["own/longest"])}, sync_dist=True)

    trainer = fit(tmp_path / "run", [Logs()], iterations=2)
    longest = rows_with(trainer.run_dir, "own/longest")
    double = rows_with(trainer.run_dir, "own/double")
    assert [row[:2] for row in longest] == [(0, 1), (2, 2)] and [row[:2] for row in double] == [(2, 1), (4, 2)]
    assert [2 * row[2] for row in longest] == [row[2] for row in double] and all(row[2] > 1 for row in longest)


def test_log_of_a_callback_says_what_to_call() -> None:
    with pytest.raises(UserError, match=r"call module.log\(name, value\)"):
        Callback().log("a", 1.0)


def coefficients(run_dir: Path) -> list[tuple[float, float]]:
    """(KL, coefficient after) of each update."""
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    kls = [float(row["train/kl"]) for row in rows if row["train/kl"]]
    return list(zip(kls, [float(row["train/kl_coef"]) for row in rows if row["train/kl_coef"]], strict=True))


def test_the_coefficient_follows_ziegler_after_every_update(tmp_path: Path) -> None:
    fit(tmp_path / "run", [AdaptiveKL(target_kl=1e-6, horizon=100)], trust_region=TrustRegion(kl_coef=0.5))
    expected, steps = 0.5, coefficients(tmp_path / "run")
    assert len(steps) == 8
    for kl, after in steps:
        proportional_error = min(0.2, max(-0.2, kl / 1e-6 - 1))
        expected *= 1 + proportional_error * 24 / 100  # three groups of eight responses
        assert after == pytest.approx(expected, rel=1e-4)
    rises = [after > before for (_, before), (_, after) in pairwise(steps)]
    assert any(rises) and not all(rises), "the test needs updates with the KL above and below its target"


def test_the_coefficient_survives_a_resume(tmp_path: Path) -> None:
    callbacks = [AdaptiveKL(target_kl=1e-5, horizon=100), Checkpoint()]
    fit(tmp_path / "parts", callbacks, iterations=2)
    fit(tmp_path / "parts", callbacks, iterations=4, ckpt_path="last")
    fit(tmp_path / "whole", callbacks, iterations=4)
    assert coefficients(tmp_path / "parts") == coefficients(tmp_path / "whole")


def test_target_and_horizon_must_be_positive() -> None:
    for settings in ({"target_kl": 0.0}, {"horizon": 0}, {"target_kl": -0.01}):
        with pytest.raises(UserError, match="must be > 0"):
            AdaptiveKL(**settings)


class BFloat16Engine(TransformersEngine):
    dtype = "bfloat16"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"engine": BFloat16Engine()}, "the engine computes in bfloat16"),
        ({"sampling": Sampling(top_p=0.9, max_response_tokens=64)}, "the engine samples with top_p 0.9"),
    ],
)
def test_the_engine_cannot_anchor_the_scores_where_its_log_probabilities_differ(
    data: dict[str, Any], words: str, tmp_path: Path
) -> None:
    trainer = Trainer(
        run_dir=str(tmp_path / "run"), accelerator="cpu", devices=1, callbacks=[OldPolicySnapshot(source="engine")]
    )
    with pytest.raises(UserError, match=words):
        trainer.fit(make_module(), make_data(**data))


def test_on_a_gpu_the_engine_cannot_anchor_the_scores() -> None:
    """vLLM's float32 attention there is computed in TF32."""
    trainer = SimpleNamespace(precision="32-true", fabric=SimpleNamespace(device=torch.device("cuda")))
    module = SimpleNamespace(policy=SimpleNamespace(model=SimpleNamespace(dtype=torch.float32)))
    with pytest.raises(UserError, match=r"TF32.*set source to recompute"):
        OldPolicySnapshot(source="engine").setup(trainer, module, "fit")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "cause"), [(-50.0, "samples from other weights"), (math.nan, r"or float16 overflows \(nan\)")]
)
def test_an_engine_that_is_off_ends_the_run_and_numbers_that_are_not_finite_are_named(
    value: float, cause: str, tmp_path: Path
) -> None:
    class Breaks(Callback):
        def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
            batch.groups[0].rollouts[0].log_probs[0] = value

    callbacks = [Breaks(), OldPolicySnapshot(max_mismatch=1e-3)]
    trainer = Trainer(run_dir=str(tmp_path / "run"), accelerator="cpu", devices=1, callbacks=callbacks)
    with pytest.raises(EngineMismatchError, match=f"^iteration 1: .*old_policy.max_mismatch 0.001: .*{cause}"):
        trainer.fit(make_module(), make_data())


def test_the_mismatch_of_the_engine_is_logged_per_token_per_response_and_on_the_scale_of_scores(tmp_path: Path) -> None:
    class Perturbs(Callback):
        """Moves the engine's log-probability of each token by 0.1, before they are compared."""

        lengths: ClassVar[list[int]] = []

        def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
            for rollout in [rollout for group in batch.groups for rollout in group.rollouts]:
                rollout.log_probs[:] = array("f", [value - 0.1 for value in rollout.log_probs])
                self.lengths.append(len(rollout.log_probs))

    fresh_start()
    trainer = Trainer(
        run_dir=str(tmp_path / "run"), max_iterations=1, accelerator="cpu", devices=1,
        callbacks=[Perturbs(), OldPolicySnapshot()],
    )  # fmt: skip
    trainer.fit(make_module(objective=MultiLabelNCE(beta=0.3)), make_data())
    per_token = math.exp(0.1) - 1 - 0.1  # k3 of a log-ratio of 0.1
    mean_length = sum(Perturbs.lengths) / len(Perturbs.lengths)
    expected = {"mismatch_kl": 1.0, "mismatch_kl_response": mean_length, "engine_score_offset": 0.3 * mean_length}
    for name, factor in expected.items():
        assert float(trainer.callback_metrics[f"rollouts/{name}"]) == pytest.approx(factor * per_token, rel=1e-3), name
