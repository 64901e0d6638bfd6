"""A run directory as the report reads it; every file is optional, except that there is an evaluation or a metric."""

import csv
import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rence_lightning.errors import UserError
from rence_lightning.evaluation import EvaluatedProblem, SampleFolder, iteration_of, read_evaluations

Series = list[tuple[float, float]]
"""(iteration or update, value), ascending."""


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run directory.

    Attributes:
        path: Path of the run directory.

    Raises:
        UserError: The folder is not a run directory, or a file in it cannot be read.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"report: {self.path} is not a folder; give a run directory")
        if not self.evaluations and not self._rows:
            raise UserError(f"report: {self.path} holds neither metrics.csv nor evaluations.jsonl with any content")

    @cached_property
    def config_yaml(self) -> str:
        """The text of the configuration, empty where there is none."""
        file = self.path / "config.yaml"
        return file.read_text() if file.exists() else ""

    @cached_property
    def command(self) -> str:
        """The command that made the run directory, `fit` or `validate`.

        `run.json` names it. In a directory without one, the account of the training problems and the figures of
        rollouts are signs of training.
        """
        file = self.path / "run.json"
        try:
            return str(json.loads(file.read_text())["command"])
        except (OSError, ValueError, TypeError, KeyError):
            trained = (self.path / "training_problems.json").exists() or self.iterations
            return "fit" if trained else "validate"

    @property
    def command_line(self) -> str:
        """The command line that repeats the run from its configuration, quoted for a shell."""
        arguments = ["python", "-m", "rence_lightning", self.command, "--config", str(self.path / "config.yaml")]
        if self.command == "validate" and (checkpoint := self._validated_checkpoint):
            arguments.append(f"--ckpt_path={checkpoint}")
        return shlex.join(arguments)

    @property
    def _validated_checkpoint(self) -> str | None:
        """The checkpoint that was evaluated instead of the configured policy; the saved configuration omits it."""
        folder = self.sample_folder(self.evaluations[-1]["iteration"]) if self.evaluations else None
        try:
            policy = folder.description().policy if folder is not None else ""
        except UserError:  # the samples were removed
            return None
        return policy if policy and (Path(policy) / "state").exists() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            return yaml.safe_load(self.config_yaml) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{self.path / 'config.yaml'}: not YAML ({error})") from error

    def setting(self, key: str) -> Any:
        """The value at a dotted key of the configuration, None where the key is missing."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of `evaluations.jsonl` by ascending iteration, the last one of each iteration."""
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
        """A figure of `metrics.csv`: over updates for `train/...`, over iterations for all others."""
        clock = "step" if name.startswith("train/") else "iteration"
        points = {row[clock]: row[name] for row in self._rows if name in row and clock in row}
        return [(x, points[x]) for x in sorted(points) if math.isfinite(points[x])]

    @property
    def iterations(self) -> int:
        """Number of completed iterations."""
        return int(max((x for x, _ in self.series("rollouts/correct")), default=0))

    @property
    def updates(self) -> int:
        return int(max((x for x, _ in self.series("train/loss")), default=0))

    @cached_property
    def rollout_files(self) -> dict[int, Path]:
        """The logs of sampled groups by iteration, in ascending order."""
        files = {iteration_of(file): file for file in self.path.glob("rollouts/iteration-*.jsonl")}
        return {number: files[number] for number in sorted(number for number in files if number is not None)}

    def groups(self, iteration: int) -> Iterator[dict[str, Any]]:
        """The groups sampled in an iteration, as `RolloutLog` writes them; an incomplete last line is skipped."""
        with self.rollout_files[iteration].open() as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

    def samples(self, iteration: int, benchmark: str) -> dict[str, EvaluatedProblem]:
        """The samples of an evaluation by problem id; empty where there are none."""
        return self.sample_folder(iteration).read(benchmark)

    def sample_folder(self, iteration: int) -> SampleFolder:
        return SampleFolder(self.path / "evaluations" / f"iteration-{iteration:04d}")

    @cached_property
    def training_problems(self) -> dict[str, Any]:
        """The result of cleaning the training problems, empty where there is none."""
        file = self.path / "training_problems.json"
        return json.loads(file.read_text()) if file.exists() else {}
