"""A run that is stopped and resumed is the run that was never stopped, to the bit."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import assert_same, finishing_callbacks, fresh_start, make_data, make_module, make_trainer, state_of

from rence_lightning.errors import UserError
from rence_lightning.prompts import ArithmeticProblems


def run(
    run_dir: Path, iterations: int, ckpt_path: str | None = None, seed: int = 0, keep_last: int = 1, **data: Any
) -> None:
    fresh_start(seed)
    trainer = make_trainer(run_dir, finishing_callbacks(keep_last), max_iterations=iterations)
    trainer.fit(make_module(), make_data(**data), ckpt_path=ckpt_path)


@pytest.mark.slow
def test_six_iterations_are_three_and_three(tmp_path: Path) -> None:
    run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    run(tmp_path / "parts", 6, ckpt_path="last", seed=123)  # what the seed set before the resume must not matter
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    history = [state[0]["run"]["callbacks"].pop("BenchmarkEvaluation") for state in (whole, parts)]
    # The run of three was evaluated at its end, iteration 3, besides.
    assert [row["iteration"] for row in history[0]["history"]] == [0, 5, 6]
    assert [row["iteration"] for row in history[1]["history"]] == [0, 3, 5, 6]
    for state in (whole, parts):
        state[0]["run"]["callbacks"].pop("Checkpoint")  # knows when it saved, which was at 3 as well
    assert_same(whole, parts)
    assert whole[0]["run"]["data"]["pool"]["mastered"], "nothing was mastered: the test has lost its point"


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_its_directory(tmp_path: Path) -> None:
    run(tmp_path / "run", 2)
    run(tmp_path / "run", 4, ckpt_path=str(tmp_path / "run"))
    assert not (tmp_path / "run-2").exists()
    with (tmp_path / "run" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(1, 9)), "metrics.csv must hold every update once, before and after the resume"
    evaluations = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in evaluations] == [0, 2, 4]


@pytest.mark.slow
def test_what_happened_after_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    """A run of four, resumed from its second iteration, tells of the third and fourth once."""
    run(tmp_path / "run", 4, keep_last=9)
    run(tmp_path / "run", 4, ckpt_path=str(tmp_path / "run" / "checkpoints" / "iteration-0002"))
    evaluations = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in evaluations] == [0, 4]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(1, 9))


def test_other_data_are_refused_at_resume(tmp_path: Path) -> None:
    run(tmp_path / "run", 1)
    with pytest.raises(UserError, match="other training prompts \\(2000\\) than the configuration gives \\(100\\)"):
        run(tmp_path / "run", 2, ckpt_path="last", problems=[ArithmeticProblems("train", count=100)])


def test_only_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "run", 3)
    checkpoints = tmp_path / "run" / "checkpoints"
    folders = {path.name for path in checkpoints.iterdir()}
    kept = {(checkpoints / link).resolve().name for link in ("last", "best")}
    assert folders == kept | {"last", "best"}
    assert (checkpoints / "last").resolve().name == "iteration-0003"
