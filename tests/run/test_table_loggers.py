"""Tables of samples and evaluations in loggers: which loggers get them, and what W&B and Trackio keep on the disk."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer, small_evaluation
from command_line import CONF, ROOT
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from rence_lightning.callbacks import RolloutLog
from rence_lightning.callbacks.rollout_log import COLUMNS
from rence_lightning.errors import UserError
from rence_lightning.evaluation import read_evaluations
from rence_lightning.evaluation.history import history_table
from rence_lightning.run import TrackioLogger
from rence_lightning.run.loggers import TableLogger, log_table


class Tables(DummyLogger):
    """Keeps the tables that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[str], list[list[Any]], int | None]] = []

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        self.tables.append((key, columns, data, step))


def logged(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of the table of samples, from the log of rollouts."""
    rows = []
    for file in sorted((run_dir / "rollouts").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            group = json.loads(line)
            rows += [{"iteration": int(file.stem[-4:]), **group, **response} for response in group.pop("responses")]
    return [{name: row.get(name, False) for name in COLUMNS} for row in rows]


def test_a_run_sends_samples_and_all_evaluations_so_far(tmp_path: Path) -> None:
    fresh_start()
    tables, plain = Tables(), CSVLogger(tmp_path / "csv")
    trainer = make_trainer(tmp_path / "run", [small_evaluation(every=1)], loggers=[plain, tables])
    trainer.fit(make_module(), make_data())
    samples = [table for table in tables.tables if table[0] == "rollouts/samples"]
    assert [step for *_, step in samples] == [0, 2], "updates done when the samples were drawn"
    rows = [dict(zip(columns, row, strict=True)) for _, columns, data, _ in samples for row in data]
    assert len(rows) == 2 * 4 * 8, "four groups of eight responses in each iteration"
    log = logged(tmp_path / "run")
    assert all(row in log for row in rows)
    for iteration in (1, 2):
        of_log = {row["outcome"] for row in log if row["iteration"] == iteration}
        assert {row["outcome"] for row in rows if row["iteration"] == iteration} == of_log
    evaluations = [table for table in tables.tables if table[0] == "evaluations"]
    assert [step for *_, step in evaluations] == [0, 2, 4]
    lines = read_evaluations(tmp_path / "run" / "evaluations.jsonl")
    for number, (_, columns, data, _) in enumerate(evaluations, start=1):
        assert [row[0] for row in data] == list(range(number))
        for row, line in zip(data, lines, strict=False):
            figures = dict(zip(columns, row, strict=True))
            assert figures.items() >= line["benchmarks"]["arithmetic"].items()


def test_no_samples_are_sent_where_none_are_wanted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="groups_in_table"):
        RolloutLog(groups_in_table=-1)
    fresh_start()
    tables = Tables()
    trainer = make_trainer(tmp_path / "run", max_iterations=1, loggers=[tables])
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, RolloutLog)]
    trainer.callbacks.append(RolloutLog(groups_in_table=0))
    trainer.fit(make_module(), make_data())
    assert tables.tables == []
    assert list((tmp_path / "run" / "rollouts").iterdir())


def test_text_that_utf_8_cannot_represent_is_replaced(tmp_path: Path) -> None:
    tables = Tables()
    assert isinstance(tables, TableLogger) and not isinstance(CSVLogger(tmp_path), TableLogger)
    log_table([CSVLogger(tmp_path), tables], "texts", ["text", "reward"], [["a\ud835b", 0.5], [None, True]], 3)
    assert tables.tables == [("texts", ["text", "reward"], [["a?b", 0.5], [None, True]], 3)]


def test_a_figure_that_a_benchmark_lacks_is_none() -> None:
    history = [
        {"iteration": 0, "benchmarks": {"a": {"avg": 0.5}, "b": {"avg": 0.2, "maj": 0.3}}},
        {"iteration": 5, "benchmarks": {"a": {"avg": 0.6, "maj": 0.7}}},
    ]
    columns, rows = history_table(history)
    assert columns == ["iteration", "benchmark", "avg", "maj"]
    assert rows == [[0, "a", 0.5, None], [0, "b", 0.2, 0.3], [5, "a", 0.6, 0.7]]


def fit_with(run_dir: Path, logger: dict[str, Any], **environment: str) -> None:
    """A short run with a logger, in a process of its own: trackers read their environment when they are imported."""
    run_dir.mkdir()
    (run_dir / "logger.yaml").write_text(json.dumps({"trainer": {"loggers": [logger]}}))
    options = [
        *(f"--config={CONF / 'arithmetic.yaml'}", f"--config={run_dir / 'logger.yaml'}"),
        *(f"--trainer.run_dir={run_dir / 'run'}", "--trainer.max_iterations=1", "--evaluation.limit=8"),
        *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--report.enabled=false"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rence_lightning", "fit", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_tables(run_dir: Path, samples: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
    log = logged(run_dir)
    assert len(samples) == 32 and all(row in log for row in samples)
    lines = read_evaluations(run_dir / "evaluations.jsonl")
    assert [row["iteration"] for row in evaluations] == [line["iteration"] for line in lines] == [0, 1]
    for row, line in zip(evaluations, lines, strict=True):
        assert row.items() >= line["benchmarks"]["arithmetic"].items()


def test_what_wandb_keeps_of_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"project": "sums", "save_dir": str(tmp_path / "test")},
    }
    fit_with(tmp_path / "test", logger, WANDB_MODE="offline")
    (media,) = (tmp_path / "test").glob("wandb/offline-run-*/files/media/table")

    def read(pattern: str) -> list[dict[str, Any]]:
        """The rows of the longest table of a name: each evaluation sends the table again, with a row more."""
        tables = [json.loads(file.read_text()) for file in media.glob(pattern)]
        longest = max(tables, key=lambda table: len(table["data"]))
        return [dict(zip(longest["columns"], row, strict=True)) for row in longest["data"]]

    assert_tables(tmp_path / "test" / "run", read("rollouts/samples_*.json"), read("evaluations_*.json"))


def test_what_trackio_keeps_in_a_local_folder(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    logger = {"class_path": "rence_lightning.run.TrackioLogger", "init_args": {"project": "sums", "name": "first"}}
    fit_with(tmp_path / "test", logger, TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1")
    with sqlite3.connect(tmp_path / "trackio" / "sums.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        ((config,),) = database.execute("select config from configs").fetchall()
    assert {name for name, *_ in rows} == {"first"}
    logs = [(step, json.loads(metrics)) for _, step, metrics in rows]
    samples = [row for _, log in logs for row in log.get("rollouts/samples", {}).get("_value", [])]
    evaluations = [log["evaluations"]["_value"] for _, log in logs if "evaluations" in log]
    assert_tables(tmp_path / "test" / "run", samples, evaluations[-1])
    assert [step for step, log in logs if "train/loss" in log] == [1, 2]
    assert json.loads(config)["model"]["policy"] == "embedded:arithmetic"


def test_a_missing_tracker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"TrackioLogger needs trackio; .*\[trackio\]"):
        TrackioLogger()


def test_a_run_without_a_name_cannot_be_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="resume: allow, but no name"):
        TrackioLogger(resume="allow")
