"""metrics.csv across a resume and for a reader who looks at any moment; what W&B and Trackio keep on the disk."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import CONF, ROOT

from rence_lightning.run.loggers import ResumableCSVLogger


def opened(folder: Path, steps_done: int) -> ResumableCSVLogger:
    logger = ResumableCSVLogger(folder, steps_done)
    logger.attach()
    return logger


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_after_the_checkpoint_are_dropped_and_written_anew(tmp_path: Path) -> None:
    first = opened(tmp_path, 0)
    for step in range(1, 5):
        first.log_metrics({"loss": float(step)}, step)
    second = opened(tmp_path, 2)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"], "a reader must find the rows that stay, at once"
    second.log_metrics({"loss": 9.0, "new": 1.0}, 3)
    assert [(row["step"], row["loss"], row["new"]) for row in rows(tmp_path)] == [
        ("1", "1.0", ""),
        ("2", "2.0", ""),
        ("3", "9.0", "1.0"),
    ]


def test_a_reader_never_finds_the_file_absent_or_empty(tmp_path: Path) -> None:
    """Each row brings a new column, which rewrites the whole file."""
    logger = opened(tmp_path, 0)
    logger.log_metrics({"loss": 0.0}, 0)
    bad: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                if "loss" not in (tmp_path / "metrics.csv").read_text().partition("\n")[0]:
                    bad.append("empty")
            except FileNotFoundError:
                bad.append("absent")

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 200):
        logger.log_metrics({"loss": 1.0, f"figure {step}": 1.0}, step)
        if step % 20 == 0:
            logger = opened(tmp_path, step)
    done.set()
    reader.join()
    assert not bad, f"{len(bad)} times: {set(bad)}"
    assert len(rows(tmp_path)) == 200


def fit_with(folder: Path, class_path: str, iterations: int, **init_args: Any) -> None:
    """A short run with a logger, in a process of its own: trackers read their environment when they are imported."""
    folder.mkdir(exist_ok=True)
    logger = {"class_path": class_path, "init_args": {"project": "sums", **init_args}}
    (folder / "logger.yaml").write_text(json.dumps({"trainer": {"loggers": [logger]}}))
    options = [
        *(f"--config={CONF / 'arithmetic.yaml'}", f"--config={folder / 'logger.yaml'}", "--report.enabled=false"),
        *(f"--trainer.run_dir={folder / 'run'}", f"--trainer.max_iterations={iterations}", "--checkpoint.every=1"),
        *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--evaluation.limit=8"),
        *(["--ckpt_path=last"] if iterations > 1 else []),
    ]
    command = [sys.executable, "-m", "rence_lightning", "fit", *options]
    path = os.pathsep.join(map(str, (ROOT / "examples", ROOT)))
    offline = {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        command, env={**os.environ, **offline}, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_and_its_continuation_are_one_run_of_trackio(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    for iterations in (1, 2):
        fit_with(tmp_path / "t", "trackio_logger.TrackioLogger", iterations, name="first", resume="allow")
    with sqlite3.connect(tmp_path / "t" / "sums.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        configs = [json.loads(config) for (config,) in database.execute("select config from configs")]
    assert {name for name, *_ in rows} == {"first"}
    assert [step for _, step, metrics in rows if "train/loss" in json.loads(metrics)] == [1, 2, 3, 4]
    assert configs[0]["model"]["policy"] == "embedded:arithmetic"
