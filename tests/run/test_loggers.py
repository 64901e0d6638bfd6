"""metrics.csv across a resume, and for a reader who looks at any moment."""

import csv
import threading
from pathlib import Path

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
