"""A run directory as reports and model cards read it; any file may be missing, but not metrics and evaluations both."""

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
from rence_lightning.evaluation import Description, Difference, SampleFolder, compare, iteration_of, read_evaluations
from rence_lightning.evaluation.comparison import MACRO
from rence_lightning.run.directory import Command, Run, last_config
from rence_lightning.run.lock import is_locked

Series = list[tuple[float, float]]
"""(iteration or update, value), ascending."""


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run directory; `at_end` if the run itself reads them, before it says that it is finished.

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

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @cached_property
    def identity(self) -> Run:
        """What `run.json` says; where it is missing, the command follows from the other files."""
        command: Command = "fit" if self.training_problems or self.iterations else "validate"
        return Run.open(self.path) or Run(self.path, self.name, command)

    @property
    def trains(self) -> bool:
        """Whether `fit` or `warmup` made the run directory, and not `validate`."""
        return self.identity.command != "validate"

    @cached_property
    def running(self) -> bool:
        """Whether a process is writing to the run directory."""
        try:
            return (self.path / ".lock").exists() and is_locked(self.path)
        except OSError:  # a directory that this user cannot write to
            return False

    @cached_property
    def config_yaml(self) -> str:
        """The text of the configuration of the last session, empty where there is none."""
        return last_config(self.path)

    @cached_property
    def _config(self) -> Any:
        return yaml.safe_load(self.config_yaml)

    def setting(self, key: str) -> Any:
        """The value at a dotted key of the configuration, None where the key is missing."""
        value = self._config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def command_line(self) -> str:
        """The command line that repeats the run from its configuration, quoted for a shell."""
        command = [self.identity.command, "--config", str(self.path / "config.yaml")]
        if not self.trains and (Path(self.policy) / "state").exists():  # config.yaml leaves it out
            command.append(f"--ckpt_path={self.policy}")
        return shlex.join(["python", "-m", "rence_lightning", *command])

    def _text(self, name: str) -> str:
        """The text of a file in the run directory, empty where it is missing."""
        return file.read_text() if (file := self.path / name).exists() else ""

    @cached_property
    def _rows(self) -> list[dict[str, float]]:
        rows = csv.DictReader(self._text("metrics.csv").splitlines())
        return [{key: float(value) for key, value in row.items() if value} for row in rows]

    def series(self, name: str) -> Series:
        """A figure of `metrics.csv`: over updates for `train/...`, over iterations for all others."""
        clock = "step" if name.startswith("train/") else "iteration"
        points = {row[clock]: row[name] for row in self._rows if name in row and clock in row}
        return [(x, points[x]) for x in sorted(points) if math.isfinite(points[x])]

    def values(self, name: str) -> list[float]:
        """The values of `series`."""
        return [value for _, value in self.series(name)]

    def total(self, name: str) -> float:
        """The sum of a figure over all rows."""
        return sum(row[name] for row in self._rows if name in row)

    @property
    def iterations(self) -> int:
        logged = [*self.series("rollouts/correct"), *self.series("iteration/loss")]  # the latter alone in a warm start
        return int(max((x for x, _ in logged), default=0))

    @cached_property
    def training_problems(self) -> dict[str, Any]:
        """The result of cleaning the training problems, empty where there is none."""
        return json.loads(self._text("training_problems.json") or "{}")

    @cached_property
    def rollout_files(self) -> dict[int, Path]:
        """The logs of sampled groups by iteration, in ascending order."""
        files = {iteration_of(file): file for file in self.path.glob("rollouts/iteration-*.jsonl")}
        return {number: files[number] for number in sorted(number for number in files if number is not None)}

    def groups(self, iteration: int) -> Iterator[dict[str, Any]]:
        """The groups sampled in an iteration, as `RolloutLog` writes them; an incomplete last line is skipped."""
        for line in self.rollout_files[iteration].read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of `evaluations.jsonl` by ascending iteration, the last one of each iteration."""
        lines = {line["iteration"]: line for line in read_evaluations(self.path / "evaluations.jsonl")}
        return [lines[iteration] for iteration in sorted(lines)]

    @cached_property
    def evaluated(self) -> list[int]:
        """The iterations after which the policy was evaluated, ascending."""
        return [line["iteration"] for line in self.evaluations]

    @cached_property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(name for line in self.evaluations for name in line["benchmarks"]))

    def samples(self, iteration: int) -> SampleFolder:
        """The samples of the evaluation after an iteration."""
        return SampleFolder(self.path / "evaluations" / f"iteration-{iteration:04d}")

    @cached_property
    def described(self) -> Description | None:
        """What was evaluated last, and how; None where there are no samples."""
        try:
            return self.samples(self.evaluated[-1]).description()
        except (UserError, IndexError):
            return None

    @property
    def policy(self) -> str:
        """Name or checkpoint of the policy that was evaluated last, else of the one that was trained."""
        name = self.described.policy if self.described is not None else self.setting("model.policy")
        return str(name or "the policy")

    @property
    def how_evaluated(self) -> str:
        """How the responses of evaluations were sampled."""
        settings = self.described.settings if self.described is not None else {}
        temperature = settings.get("temperature", self.setting("evaluation.sampling.temperature"))
        repeats = settings.get("repeats", self.setting("evaluation.repeats"))
        return f"{repeats or 'several'} samples of each problem at temperature {temperature}"

    def changes(self, before: int | None = None, after: int | None = None) -> dict[str, Difference]:
        """The changes by benchmark between the evaluations after two iterations (default: the first and the last);
        empty where they are one, or lack samples."""
        if not self.evaluated:
            return {}
        first, last = (self.evaluated[at] if given is None else given for at, given in ((0, before), (-1, after)))
        try:
            return compare(self.samples(first), self.samples(last)) if first != last else {}
        except UserError:  # samples were removed, or the benchmarks changed during the run
            return {}

    def change(self, before: int | None = None) -> Difference | None:
        """The change to the last evaluation over all benchmarks; None where there is none."""
        changes = self.changes(before)
        return changes.get(MACRO) or next(iter(changes.values()), None)

    @property
    def best(self) -> int | None:
        """Iteration of the evaluation with the highest average; None without evaluations."""
        return max(self.evaluations, key=lambda line: line["average"])["iteration"] if self.evaluations else None
