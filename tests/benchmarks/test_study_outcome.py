"""Outcomes of runs as lines of files: what is written is read, and what is not an outcome is refused."""

import json
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study.outcome import Outcome, Point, append_outcome, provenance, read_outcomes
from rence_lightning.errors import UserError

LINE: dict[str, Any] = {
    "study": "tables",
    "task": "chains",
    "question": "",
    "level": "",
    "method": "ReNCE",
    "learning_rate": 0.0004,
    "split": "test",
    "seed": 0,
    "start": 0.283,
    "curve": [{"iteration": 2, "updates": 8, "responses": 1024, "cpu_seconds": 4.1, "accuracy": 0.61}],
    "at": {
        "responses": {"iteration": 4, "responses": 4160, "updates": 15, "cpu_seconds": 9.8, "accuracy": 0.77},
        "updates": {"iteration": 5, "responses": 5000, "updates": 16, "cpu_seconds": 10, "accuracy": 0.78},
    },
    "error": "",
    "command": ["python", "-m", "rence_lightning"],
    "cpu_seconds": 14.2,
    "commit": "abcdef123456",
    "processor": "Abacus",
    "inputs": "0123456789ab",
}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_line_is_read_and_written_back_the_same(tmp_path: Path) -> None:
    (outcome,) = read_outcomes(write(tmp_path / "a.jsonl", LINE))
    assert outcome.curve == (Point(2, 8, 1024, 4.1, 0.61),)
    assert (outcome.accuracy("responses"), outcome.accuracy("updates"), outcome.trained) == (0.77, 0.78, True)
    append_outcome(tmp_path / "new" / "b.jsonl", outcome)
    assert json.loads((tmp_path / "new" / "b.jsonl").read_text()) == LINE
    assert read_outcomes(tmp_path / "new" / "b.jsonl") == [outcome]


def test_a_run_that_is_not_trained_has_its_accuracy_before_training(tmp_path: Path) -> None:
    (outcome,) = read_outcomes(write(tmp_path / "a.jsonl", {**LINE, "learning_rate": None, "at": {}, "curve": []}))
    assert (outcome.accuracy("responses"), outcome.accuracy("updates"), outcome.trained) == (0.283, 0.283, False)


def test_the_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, seed in (("b", 1), ("a", 0)):
        write(tmp_path / f"{name}.jsonl", {**LINE, "seed": seed})
    write(tmp_path / "notes.txt", "not an outcome")
    assert [outcome.seed for outcome in read_outcomes(tmp_path)] == [0, 1]
    with pytest.raises(UserError, match="no such file or folder"):
        read_outcomes(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mehtod": "ReNCE"}, "unknown: mehtod"),
        ({"seed": "0"}, "seed: '0' has the wrong type"),
        ({"seed": True}, "seed: True has the wrong type"),
        ({"start": float("nan")}, "start: nan is not finite"),
        ({"start": 28.3}, "start: 28.3; it must be from 0 to 1"),
        ({"split": "train"}, "split: 'train'; choose from validation, test, repeat"),
        ({"study": "else"}, "study: 'else'; choose from tables, when"),
        ({"question": "K"}, "question and level: both"),
        ({"study": "when"}, "question and level: both"),
        ({"at": {}}, "at and learning_rate: both"),
        ({"at": {"responses": LINE["at"]["responses"]}}, "at: the keys responses; it must have responses, updates"),
        ({"curve": [{**LINE["curve"][0], "accuracy": 61}]}, r"curve\[0\]\.accuracy: 61; it must be from 0 to 1"),
        ({"curve": [{**LINE["curve"][0], "updates": -1}]}, r"curve\[0\]: a number below 0"),
        ({"curve": [{"iteration": 2}]}, r"missing: curve\[0\]\.accuracy, curve\[0\]\.cpu_seconds"),
        ({"curve": [3]}, r"curve\[0\]\.3 is not an object"),
    ],
)
def test_a_line_that_is_no_outcome_is_refused_by_file_and_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {words}"):
        read_outcomes(write(tmp_path / "a.jsonl", LINE, {**LINE, **change}))


def test_a_missing_key_and_an_incomplete_line_are_refused(tmp_path: Path) -> None:
    without = {key: value for key, value in LINE.items() if key != "error"}
    with pytest.raises(UserError, match=r"a\.jsonl:1: missing: error"):
        read_outcomes(write(tmp_path / "a.jsonl", without))
    with pytest.raises(UserError, match=r"a\.jsonl:2: "):
        read_outcomes(write(tmp_path / "a.jsonl", LINE, json.dumps(LINE)[:40]))


def test_a_wrong_outcome_is_not_written(tmp_path: Path) -> None:
    (outcome,) = read_outcomes(write(tmp_path / "a.jsonl", LINE))
    with pytest.raises(UserError, match=r"b\.jsonl: the outcome of ReNCE, seed 0: start: 2"):
        append_outcome(tmp_path / "b.jsonl", replace(outcome, start=2.0))
    assert not (tmp_path / "b.jsonl").exists()


def _append(path: Path, outcome: Outcome, times: int) -> None:
    for _ in range(times):
        append_outcome(path, outcome)


def test_processes_that_append_at_the_same_time_do_not_mix_their_lines(tmp_path: Path) -> None:
    (outcome,) = read_outcomes(write(tmp_path / "a.jsonl", {**LINE, "curve": LINE["curve"] * 200}))
    context = get_context("fork")
    processes = [
        context.Process(target=_append, args=(tmp_path / "b.jsonl", replace(outcome, seed=seed), 40)) for seed in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(each.seed for each in read_outcomes(tmp_path / "b.jsonl")) == [0] * 40 + [1] * 40


def test_runs_are_counted_by_commit_and_processor(tmp_path: Path) -> None:
    lines = [
        LINE,
        {**LINE, "task": "graded"},  # the same run
        {**LINE, "command": ["another"]},
        {**LINE, "command": ["a third"], "commit": "123456abcdef", "processor": ""},
    ]
    assert provenance(read_outcomes(write(tmp_path / "a.jsonl", *lines))) == (
        "commits abcdef123456 (2 runs), 123456abcdef (1 runs); processors Abacus (2 runs), unknown (1 runs), "
        "one thread a run"
    )


def test_the_accuracy_at_an_exact_budget_is_on_the_line_between_evaluations(tmp_path: Path) -> None:
    (outcome,) = read_outcomes(write(tmp_path / "a.jsonl", LINE))  # 28.3% before training, 61% after 1,024 responses
    assert outcome.interpolated("responses", 512) == pytest.approx((0.283 + 0.61) / 2)
    assert outcome.interpolated("updates", 8) == 0.61
    assert outcome.interpolated("updates", 100) == 0.61, "the last evaluation"
