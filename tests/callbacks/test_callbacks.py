"""Lightning's own callbacks together with the project's, and the adaptive KL coefficient in a run."""

import csv
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import fresh_start, make_data, make_module, small_evaluation
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint, ModelSummary, Timer

from rence_lightning.callbacks import AdaptiveKL, Callback, Checkpoint, OldPolicySnapshot
from rence_lightning.errors import UserError
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.rollouts import Sampling, TransformersEngine
from rence_lightning.sampling.batch import IterationBatch
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


def test_early_stopping_on_a_figure_of_the_run(tmp_path: Path) -> None:
    """The largest value of this figure is 0, and it is reached at once: there is no improvement after that."""
    stop = EarlyStopping("rollouts/truncated", mode="max", patience=1, check_on_train_epoch_end=True)
    trainer = fit(tmp_path / "run", [stop])
    assert trainer.current_epoch == 2
    assert stop.stopped_epoch == 2


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


def test_lightnings_checkpoint_is_refused_and_the_message_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use the key 'checkpoint' instead"):
        Trainer(run_dir=str(tmp_path / "run"), accelerator="cpu", callbacks=[ModelCheckpoint()])


def test_a_users_callback_sees_the_rollouts_before_any_update(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Watch(Callback):
        def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
            seen.append((trainer.global_step, len(batch.groups)))

    fit(tmp_path / "run", [Watch()], iterations=2)
    assert seen == [(0, 6), (2, 6)]


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


def test_the_coefficient_stays_where_it_is_when_switched_off(tmp_path: Path) -> None:
    trainer = fit(tmp_path / "run", [AdaptiveKL(enabled=False)], trust_region=TrustRegion(kl_coef=0.5))
    assert trainer.lightning_module.trust_region.kl_coef == 0.5


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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"engine": TransformersEngine(copy_dtype="bfloat16")}, "the engine computes in bfloat16"),
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
