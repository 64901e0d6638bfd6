"""The checks of the report's verdict: each is raised by a series made for it, and not by a healthy one."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from rence_lightning.evaluation import Difference
from rence_lightning.report.checks import CHECKS, Finding, Level, examine, verdict
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import Run

FINE, WATCH, WRONG = Level

CONFIG: dict[str, Any] = {
    "trainer": {"max_iterations": 20, "precision": "32-true"},
    "adaptive_kl": {"target_kl": 0.01},
    "data": {"prompts_per_iteration": 24},
}
BFLOAT16 = {**CONFIG, "trainer": {"max_iterations": 20, "precision": "bf16-mixed"}}
LIMITED = {**CONFIG, "model": {"trust_region": {"delta": 1.0}}}

CASES: list[tuple[str, list[float], Level, dict[str, Any]]] = [
    ("KL", [0.0, 0.005, 0.02], FINE, CONFIG),
    ("KL", [0.01] * 9 + [0.05] * 3, WATCH, CONFIG),
    ("KL", [0.01] * 9 + [0.2] * 3, WRONG, CONFIG),
    ("KL", [0.01] * 9 + [0.2] * 3, FINE, LIMITED),
    ("KL peak", [0.09, *[0.01] * 11], FINE, CONFIG),
    ("KL peak", [0.5, *[0.01] * 11], WATCH, CONFIG),
    ("correct responses", [0.1, 0.2, -0.1, 0.1, -0.1, -0.1, 0.2], FINE, CONFIG),
    ("correct responses", [0.1, -0.1, -0.2, -0.1, 0.1], WATCH, CONFIG),
    ("correct responses", [0.1, -0.1, -4.0, -0.1, 0.1], WRONG, CONFIG),
    ("entropy falls", [0.2] * 6 + [0.1] * 3, FINE, CONFIG),
    ("entropy falls", [0.2] * 6 + [0.04] * 3, WATCH, CONFIG),
    ("entropy falls", [0.2] * 6 + [0.0] * 3, WRONG, CONFIG),
    ("entropy rises", [0.2] * 6 + [1.0] + [0.2] * 2, FINE, CONFIG),  # an outlier
    ("entropy rises", [0.2] * 6 + [0.5] * 3, WATCH, CONFIG),
    ("entropy rises", [0.2] * 6 + [1.0] * 3, WRONG, CONFIG),
    ("truncation", [0.5, 0.3, 0.1, 0.05, 0.05, 0.05], FINE, CONFIG),  # it has learned to end
    ("truncation", [0.0, 0.0, 0.15, 0.2, 0.2], WATCH, CONFIG),
    ("truncation", [0.0, 0.0, 0.5, 0.6, 0.9], WRONG, CONFIG),
    ("engine mismatch", [3e-7] * 4, FINE, CONFIG),
    ("engine mismatch", [1e-3] * 4, WATCH, CONFIG),
    ("engine mismatch", [5e-2] * 4, WRONG, CONFIG),
    ("engine mismatch", [1e-2] * 4, FINE, BFLOAT16),
    ("engine mismatch", [5e-2] * 4, WATCH, BFLOAT16),
    ("skipped updates", [0.0] * 40, FINE, CONFIG),
    ("skipped updates", [0.0] * 39 + [1.0], WATCH, CONFIG),
    ("skipped updates", [0.0] * 30 + [4.0] * 10, WRONG, CONFIG),
    ("equal rewards", [0.5, 0.2, 1e-6], FINE, CONFIG),
    ("equal rewards", [0.5, 0.0, 0.1], WATCH, CONFIG),
    ("equal rewards", [0.0, 0.0, 0.0], WRONG, CONFIG),
    ("full batches", [24.0, 24.0], FINE, CONFIG),
    ("full batches", [24.0, 24.0, 7.0], WATCH, CONFIG),
    ("full batches", [24.0, 7.0, 7.0], WRONG, CONFIG),
    ("correct samples", [0.1, 0.2, 0.3], FINE, CONFIG),
    ("correct samples", [0.0, 0.1, 0.2, 0.3], WATCH, CONFIG),
    ("correct samples", [0.2, 0.0, 0.0, 0.0], WRONG, CONFIG),
    ("grading", [16_000.0], FINE, CONFIG),
    ("grading", [1_000.0], WATCH, CONFIG),
    ("grading", [50.0], WRONG, CONFIG),
]


def record(folder: Path, series: str, values: list[float], config: dict[str, Any]) -> RunRecord:
    """A run with one series of figures, beside those without which it is none: two gradings have crashed."""
    lines = [f"iteration,step,rollouts/grading_crashes,{series}"]
    lines += [f"{at},{at},{2 if at == 1 else 0},{value}" for at, value in enumerate(values, start=1)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return RunRecord(folder)


@pytest.mark.parametrize(("name", "values", "level", "config"), CASES)
def test_each_check_is_raised_by_its_series(
    name: str, values: list[float], level: Level, config: dict[str, Any], tmp_path: Path
) -> None:
    (check,) = [each for each in CHECKS if each.name == name]
    found = check(record(tmp_path, check.series, values, config))
    assert found is not None and found.level == level, found
    assert bool(found.advice) == bool(level)
    assert check(record(tmp_path, "other", values, config)) is None


def test_every_check_of_a_series_has_cases() -> None:
    assert {check.name for check in CHECKS} == {name for name, *_ in CASES}


@pytest.mark.parametrize(
    ("since_first", "since_best", "levels", "text"),
    [
        ((0.3, 0.5), None, [FINE], "+20.0 points, 95% interval +18.0 to +22.0: a loss is ruled out"),
        ((0.031, 0.01), (0.32, 0.31), [WRONG, FINE], "-2.1 points, 95% interval -4.1 to -0.1: a loss is shown"),
        ((0.3, 0.31), None, [FINE], "a loss is neither shown nor ruled out"),
        ((0.02, 0.01), None, [FINE], "-1.0 points, 95% interval -3.0 to +1.0: a loss is neither shown nor ruled out"),
        ((0.3, 0.4), (0.5, 0.4), [FINE, WATCH], "a loss is ruled out"),
        ((0.3, 0.2), (0.3, 0.2), [WRONG, WATCH], "a loss is shown"),
    ],
)
def test_a_loss_of_accuracy_is_shown_ruled_out_or_neither(
    since_first: Any, since_best: Any, levels: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(self: RunRecord, before: int | None = None) -> Difference | None:
        pair = since_first if before is None else since_best
        return (
            None if pair is None else Difference(100, *pair, pair[1] - pair[0] - 0.02, pair[1] - pair[0] + 0.02, 0, 0)
        )

    monkeypatch.setattr(RunRecord, "change", change)
    monkeypatch.setattr(RunRecord, "best", 10)
    all_found = {each.name: each for each in examine(record(tmp_path, "rollouts/correct", [0.3], CONFIG))}
    found = [all_found[name] for name in ("accuracy", "best evaluation") if name in all_found]
    assert [each.level for each in found] == levels and text in found[0].text
    assert [bool(each.advice) for each in found] == [bool(level) for level in levels]


@pytest.mark.parametrize(
    ("iterations", "settings", "level", "text"),
    [
        (20, {"finished": True}, FINE, "20 of 20 iterations are done"),
        (12, {"finished": True}, FINE, "12 of 20 iterations are done"),  # all mastered
        (12, {}, WATCH, "the run was interrupted"),
        (12, {"error": "StarvationError: nothing"}, WRONG, "ended with an error: StarvationError: nothing"),
    ],
)
def test_the_end_of_the_run(iterations: int, settings: dict[str, Any], level: Level, text: str, tmp_path: Path) -> None:
    run = record(tmp_path, "rollouts/correct", [0.5] * iterations, CONFIG)
    Run(tmp_path, "run")._written(**settings)
    (found,) = [each for each in examine(run) if each.name == "completion"]
    assert found.level == level and text in found.text and bool(found.advice) == bool(level)


def test_the_command_that_continues_a_run_is_quoted(tmp_path: Path) -> None:
    (folder := tmp_path / "a run").mkdir()
    run = record(folder, "rollouts/correct", [0.5], CONFIG)
    Run(folder, "run")._written()
    (found,) = [each for each in examine(run) if each.name == "completion"]
    assert shlex.split(found.advice.removesuffix("."))[-1] == str(folder)


def test_the_verdict_counts_what_was_raised() -> None:
    fine, watch, wrong = (Finding(level.name, level, "...") for level in Level)
    assert verdict([fine, fine]) == "Yes: all 2 checks passed."
    assert verdict([fine, watch]) == "Mostly: of 2 checks, 1 to watch."
    assert verdict([fine, watch, wrong]) == "No: of 3 checks, 1 failed and 1 to watch."
