"""The times of a run's phases, by a clock that moves only where the test moves it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer, small_evaluation

from rence_lightning.callbacks import Callback, Checkpoint, Timing
from rence_lightning.errors import PartError
from rence_lightning.report.answers import PHASES, time_spent, time_summary
from rence_lightning.report.run_record import RunRecord

TICKS = {
    "on_draw": 1.0,
    "on_updates_start": 10.0,
    "on_passes_end": 100.0,
    "on_evaluate": 1_000.0,
    "on_train_epoch_end": 10_000.0,
}
"""Seconds that pass in a hook each time it is called."""


class Ticking(Callback):
    """Moves the clock within the phases."""

    def __init__(self) -> None:
        self.now = 0.0

    def on_draw(self, *_: Any) -> None:
        self.now += TICKS["on_draw"]

    def on_updates_start(self, *_: Any) -> None:
        self.now += TICKS["on_updates_start"]

    def on_passes_end(self, *_: Any) -> None:
        self.now += TICKS["on_passes_end"]

    def on_evaluate(self, *_: Any) -> None:
        self.now += TICKS["on_evaluate"]

    def on_train_epoch_end(self, *_: Any) -> None:
        self.now += TICKS["on_train_epoch_end"]


def fit(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, *further: Callback, ckpt_path: str | None = None, **settings: Any
) -> None:
    """Two iterations of one draw and two updates each, with an evaluation before and one after."""
    ticking = Ticking()
    monkeypatch.setattr("rence_lightning.callbacks.timing.time", SimpleNamespace(perf_counter=lambda: ticking.now))
    fresh_start()
    callbacks = [ticking, small_evaluation(limit=2, every=2), *further, Checkpoint(), Timing(**settings)]
    data = make_data(prompts_per_iteration=4, prompts_per_update=2, prompts_per_draw=32)
    make_trainer(run_dir, callbacks).fit(make_module(), data, ckpt_path=ckpt_path)


def test_each_phase_has_its_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path, monkeypatch)
    record = RunRecord(tmp_path)
    totals = {name: record.total(f"time/{name}") for name in PHASES}
    assert totals == {
        "rollouts": 2 * TICKS["on_draw"],
        "old_policy": 2 * TICKS["on_updates_start"],
        "updates": 4 * TICKS["on_passes_end"],
        "evaluation": 2 * TICKS["on_evaluate"],
        "other": 2 * TICKS["on_train_epoch_end"],
    }
    assert record.series("time/updates") == [(1.0, 200.0), (2.0, 200.0)]


class Interrupts(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 1:
            raise RuntimeError("stopped")


def test_the_time_of_an_interrupted_iteration_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PartError, match="stopped"):
        fit(tmp_path, monkeypatch, Interrupts())
    fit(tmp_path, monkeypatch, ckpt_path="last")
    totals = {name: RunRecord(tmp_path).total(f"time/{name}") for name in ("rollouts", "old_policy")}
    assert totals == {"rollouts": 2 * TICKS["on_draw"], "old_policy": 2 * TICKS["on_updates_start"]}


def test_the_summary_gives_the_longest_phase_first(tmp_path: Path) -> None:
    rows = ["time/rollouts,time/updates,rollouts/correct,iteration,step", "60,20,0.5,1,1", "60,40,0.5,2,2", ",20,,2,2"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    record = RunRecord(tmp_path)
    assert list(time_spent(record).items()) == [("rollouts", 120.0), ("updates", 80.0)]
    assert time_summary(record) == "0:03:20 in all: 60% rollouts, 40% updates."
