"""The runs of a study: what each of them is, and the command that makes it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.study.spec import Level, Spec
from rence_lightning.errors import UserError

BENCHMARK = "problems"
BUDGETS = "benchmarks.study.budgets.Budgets"


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        study: Study of the run: "tables" or "when".
        task: Name of the task.
        method: Name of the method.
        learning_rate: Learning rate of the optimizer; None for the policy that is not trained.
        split: Purpose of the run, as in `Outcome`.
        seed: Seed of the order of the prompts and of sampling.
        question: Setting that is varied; empty in the tables.
        level: Its value.
        arguments: Arguments of the command line, without the run directory. Jobs of equal arguments share a run.
        inputs: Digest of the start policy and the problems, some of which are made by each machine for itself.
    """

    study: str
    task: str
    method: str
    learning_rate: float | None
    split: str
    seed: int
    question: str = ""
    level: str = ""
    arguments: tuple[str, ...] = field(default=(), repr=False)
    inputs: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Name of the run for people."""
        rate = "" if self.learning_rate is None else f", lr {self.learning_rate:g}"
        level = f", {self.question} {self.level}" if self.question else ""
        return f"{self.task}{level}, {self.method}{rate}, {self.split} seed {self.seed}"

    @property
    def command(self) -> tuple[str, ...]:
        """The command without the run directory; it identifies a run."""
        return ("python", "-m", "rence_lightning", "fit", *self.arguments)


def make_job(
    spec: Spec,
    problems: Path,
    study: str,
    task: str,
    method: str,
    rate: float | None,
    split: str,
    seed: int,
    question: str = "",
    level: tuple[str, Level] | None = None,
) -> Job:
    """A run of a method on a task.

    Args:
        spec: Specification of the study.
        problems: Folder of the files of problems.
        study: Study of the run.
        task: Name of the task.
        method: Name of the method.
        rate: Learning rate.
        split: Purpose of the run. For "validation", it is evaluated on the validation problems.
        seed: Seed.
        question: Question of the run; empty in the tables.
        level: Name and settings of its level.
    """
    about, config = spec.tasks[task], spec.methods[method].config
    files = [spec.base, *([config] if config else []), spec.overlay]
    shares = [1.0] if split == "validation" else list(spec.shares)
    options = {
        **_options(spec, problems, task, method, split, level[1] if level else None),
        "seed_everything": seed,
        **({"model.optimizer.init_args.lr": rate} if config else {"trainer.max_iterations": 0}),
        "trainer.callbacks": [{"class_path": BUDGETS, "init_args": {**spec.budgets, "shares": shares}}],
    }
    arguments = (
        *(f"--config={file}" for file in files),
        *(f"--{key}={_text(value)}" for key, value in options.items()),
    )
    inputs = _digest(problems, about.problems, about.policy)
    return Job(study, task, method, rate, split, seed, question, level[0] if level else "", arguments, inputs)


def _options(spec: Spec, problems: Path, task: str, method: str, split: str, level: Level | None) -> dict[str, Any]:
    """The options of all runs, of the method, of the task and of the level, in this order."""
    about = spec.tasks[task]
    part = "validation" if split == "validation" else "test"
    return {
        **spec.options,
        "model.policy": about.policy if ":" in about.policy else str(problems / about.policy),
        "data.problems": [_source(problems / f"{about.problems}-train.jsonl")],
        "evaluation.benchmarks": {BENCHMARK: _source(problems / f"{about.problems}-{part}.jsonl")},
        **spec.methods[method].options,
        **about.options,
        **(level.options if level else {}),
        **(level.of_method.get(method, {}) if level else {}),
    }


@cache
def _digest(folder: Path, problems: str, policy: str) -> str:
    """A digest of a task's problems and of its start policy, unless that is one of the package's."""
    files = sorted(folder.glob(f"{problems}-*.jsonl"))
    if ":" not in policy:
        files += sorted((folder / policy).glob("*.safetensors"))
    digest = blake2b(digest_size=6)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _source(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such file; the command writes the files of the tasks when it starts")
    return {"class_path": "rence_lightning.prompts.FileProblems", "init_args": {"path": str(path)}}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping | list | bool) or value is None else str(value)
