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
from rence_lightning.evaluation import Description, EvaluatedProblem, SampleFolder, iteration_of, read_evaluations
from rence_lightning.run.directory import Run
from rence_lightning.run.lock import is_locked

Series = list[tuple[float, float]]
"""(iteration or update, value), ascending."""


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run directory.

    Attributes:
        path: Path of the run directory.
        at_end: Whether the run itself is reading, at its end, before it has written that it is finished.

    Raises:
        UserError: The folder is not a run directory, or a file in it cannot be read.
    """

    path: Path
    at_end: bool = False

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"report: {self.path} is not a folder; give a run directory")
        if not self.evaluations and not self._rows:
            raise UserError(f"report: {self.path} holds neither metrics.csv nor evaluations.jsonl with any content")

    @cached_property
    def config_yaml(self) -> str:
        """The text of the configuration of the last session, empty where there is none."""
        sessions = self.identity.sessions if self.identity is not None else ()
        file = self.path / ((sessions[-1]["config"] if sessions else None) or "config.yaml")
        return file.read_text() if file.exists() else ""

    @cached_property
    def identity(self) -> Run | None:
        """The contents of `run.json`, None in a directory of an earlier version."""
        return Run.open(self.path)

    @property
    def finished(self) -> bool | None:
        """Whether the run reached its end, None where that is not known."""
        return self.at_end or (self.identity.finished if self.identity is not None else None)

    @cached_property
    def running(self) -> bool:
        """Whether a process is writing to the run directory."""
        try:
            return (self.path / ".lock").exists() and is_locked(self.path)
        except OSError:  # a directory that this user cannot write to
            return False

    @property
    def planned(self) -> int | None:
        """The configured number of iterations, None where it is not known."""
        planned = self.setting("trainer.max_iterations")
        return planned if isinstance(planned, int) else None

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
        policy = self._described.policy if self._described is not None else ""
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

    def evaluation_setting(self, name: str) -> Any:
        """A setting of the last evaluation, such as `repeats`, None where it is not known."""
        described = self._described
        if described is not None and name in described.settings:
            return described.settings[name]
        return self.setting(f"evaluation.{name}") or self.setting(f"evaluation.sampling.{name}")

    @property
    def evaluated_policy(self) -> str | None:
        """Name or checkpoint of the policy that was evaluated last, None where it is not known."""
        return self._described.policy if self._described is not None else self.setting("model.policy")

    @cached_property
    def _described(self) -> Description | None:
        try:
            return self.sample_folder(self.evaluations[-1]["iteration"]).description() if self.evaluations else None
        except UserError:  # the samples were removed
            return None

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

    def values(self, name: str) -> list[float]:
        """The values of `series`."""
        return [value for _, value in self.series(name)]

    def total(self, name: str) -> float | None:
        """The sum of a figure over all rows, None where no row has it."""
        values = [row[name] for row in self._rows if name in row]
        return sum(values) if values else None

    @property
    def updates_skipped(self) -> int:
        """Number of updates that were skipped for a fault: as counted by the trainer, or without a finite gradient."""
        counted = self.values("train/updates_skipped")
        norms = [row["train/grad_norm"] for row in self._rows if "train/grad_norm" in row]
        return int(max([*counted, sum(not math.isfinite(norm) for norm in norms) - self.updates_overflowed]))

    @property
    def updates_overflowed(self) -> int:
        """Number of updates that were skipped because their scaled gradient overflowed (`16-mixed`)."""
        return int(max(self.values("train/updates_overflowed"), default=0))

    @property
    def grading_failures(self) -> float:
        """Number of responses whose grading crashed or took too long."""
        return sum(self.total(f"rollouts/grading_{how}") or 0.0 for how in ("crashes", "timeouts"))

    @property
    def iterations(self) -> int:
        """Number of completed iterations."""
        return int(max((x for x, _ in self.series("rollouts/correct")), default=0))

    @property
    def updates(self) -> int:
        return int(max((row["step"] for row in self._rows if "train/loss" in row and "step" in row), default=0))

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
