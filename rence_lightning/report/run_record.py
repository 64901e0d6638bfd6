"""A run directory as the report reads it; nothing of it need be there but an evaluation or a row of metrics."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rence_lightning.errors import UserError
from rence_lightning.evaluation import EvaluatedProblem, SampleFolder, read_evaluations

Series = list[tuple[float, float]]
"""(iteration or update, value), ascending."""


@dataclass(frozen=True)
class RunRecord:
    """What a run left behind.

    Attributes:
        path: The run directory.

    Raises:
        UserError: The folder is not a run directory, or a file of it cannot be read.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"report: {self.path} is not a folder; give a run directory")
        if not self.evaluations and not self._rows:
            raise UserError(f"report: {self.path} holds neither metrics.csv nor evaluations.jsonl with anything in it")

    @cached_property
    def config_yaml(self) -> str:
        """The configuration as it stands, empty where there is none."""
        file = self.path / "config.yaml"
        return file.read_text() if file.exists() else ""

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            return yaml.safe_load(self.config_yaml) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{self.path / 'config.yaml'}: not YAML ({error})") from error

    def setting(self, key: str) -> Any:
        """The value at a dotted key of the configuration, None where there is none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of `evaluations.jsonl`, the last of each iteration, in their order."""
        lines = read_evaluations(self.path / "evaluations.jsonl")
        return [{line["iteration"]: line for line in lines}[n] for n in sorted({line["iteration"] for line in lines})]

    @cached_property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(name for line in self.evaluations for name in line["benchmarks"]))

    @cached_property
    def _rows(self) -> list[dict[str, float]]:
        file = self.path / "metrics.csv"
        if not file.exists():
            return []
        with file.open(newline="") as lines:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]

    def series(self, name: str) -> Series:
        """A figure of `metrics.csv`: by update for those of updates (`train/...`), by iteration for the others."""
        clock = "step" if name.startswith("train/") else "iteration"
        points = {row[clock]: row[name] for row in self._rows if name in row and clock in row}
        return [(x, points[x]) for x in sorted(points) if math.isfinite(points[x])]

    @property
    def iterations(self) -> int:
        """Iterations done."""
        return int(max((x for x, _ in self.series("rollouts/correct")), default=0))

    @property
    def updates(self) -> int:
        return int(max((x for x, _ in self.series("train/loss")), default=0))

    @cached_property
    def rollout_files(self) -> dict[int, Path]:
        """The logs of sampled groups, by iteration."""
        files = sorted(self.path.glob("rollouts/iteration-*.jsonl"))
        return {int(file.stem.rpartition("-")[2]): file for file in files}

    def groups(self, iteration: int) -> Iterator[dict[str, Any]]:
        """The groups sampled in an iteration, as `RolloutLog` writes them; a line that a kill cut off is left out."""
        with self.rollout_files[iteration].open() as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

    def samples(self, iteration: int, benchmark: str) -> dict[str, EvaluatedProblem]:
        """What an evaluation sampled, by problem; empty where it was not kept."""
        return self.sample_folder(iteration).read(benchmark)

    def sample_folder(self, iteration: int) -> SampleFolder:
        return SampleFolder(self.path / "evaluations" / f"iteration-{iteration:04d}")

    @cached_property
    def training_problems(self) -> dict[str, Any]:
        """The account of cleaning, empty where there is none."""
        file = self.path / "training_problems.json"
        return json.loads(file.read_text()) if file.exists() else {}
