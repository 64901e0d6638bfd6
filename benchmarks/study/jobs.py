"""The runs of a study: what each of them is, and the arguments of its command."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.study.results import Label
from benchmarks.study.runs import Cell
from benchmarks.study.spec import Level, Spec, Task
from rence_lightning.errors import UserError

BUDGETS = "benchmarks.study.budgets.Budgets"


@dataclass(frozen=True, kw_only=True)
class Job(Label):
    """A run of a study.

    Attributes:
        arguments: Arguments of `fit`, without the run directory. Jobs of equal arguments share a run.
        digest: Digest of the problems and of the policy's weights, where that is a folder.
    """

    arguments: tuple[str, ...] = field(default=(), repr=False)
    digest: str = ""

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


def make_job(spec: Spec, problems: Path, cell: Cell, rate: float | None, split: str, seed: int) -> Job:
    """A run of a study.

    Args:
        spec: Specification of the studies.
        problems: Folder of the files of problems.
        cell: Task, method and level of the run.
        rate: Learning rate.
        split: Purpose of the run, as in `Label`. For "validation", it is evaluated on the validation problems.
        seed: Seed of the run.
    """
    task, method = spec.tasks[cell.task], spec.methods[cell.method]
    level = spec.questions[cell.question].levels[cell.level] if cell.question else Level(cell.task)
    part = "validation" if split == "validation" else "test"
    shares = [1.0] if split == "validation" else list(spec.shares)
    options = {
        **spec.options,
        "model.policy": policy_of(task, problems),
        "data.problems": [_source(problems / f"{task.problems}-train.jsonl")],
        "evaluation.benchmarks": {"problems": _source(problems / f"{task.problems}-{part}.jsonl")},
        **method.options,
        **task.options,
        **task.of_method.get(cell.method, {}),
        **level.options,
        **level.of_method.get(cell.method, {}),
        "seed_everything": seed,
        **({"model.optimizer.init_args.lr": rate} if method.config else {"trainer.max_iterations": 0}),
        "trainer.callbacks": [
            {"class_path": BUDGETS, "init_args": {**spec.budgets_of(cell.task, split), "shares": shares}}
        ],
    }
    files = [file for file in (spec.base, method.config, spec.overlay) if file]
    arguments = [f"--config={file}" for file in files] + [f"--{key}={_text(value)}" for key, value in options.items()]
    return Job(
        study="when" if cell.question else "tables",
        **cell._asdict(),
        learning_rate=rate,
        split=split,
        seed=seed,
        arguments=tuple(arguments),
        digest=_digest(
            problems / f"{task.problems}-train.jsonl",
            problems / f"{task.problems}-{part}.jsonl",
            problems / task.policy / "model.safetensors",
        ),
    )


@functools.cache
def _digest(*files: Path) -> str:
    """A digest of the files that exist; they do not change during a study."""
    content = b"".join(file.read_bytes() for file in files if file.is_file())
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def policy_of(task: Task, problems: Path) -> str:
    """The policy that is trained on a task, as in `model.policy`."""
    return task.policy if ":" in task.policy else str(problems / task.policy)


def _source(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such file; the command writes the files of the tasks when it starts")
    return {"class_path": "rence_lightning.prompts.FileProblems", "init_args": {"path": str(path)}}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping | list | bool) or value is None else str(value)
