"""`python -m benchmarks.precision learning`: short runs of the embedded policy in each precision."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.precision.runs import Job, Method, Result, Runner
from benchmarks.precision.trajectory import rounded_policy
from rence_lightning.errors import UserError
from rence_lightning.policy import export_policy

SPEC = Path(__file__).parent / "learning.yaml"

LOGGED = ("kl", "kl_coef", "positive_log_ratio", "weights_changed", "movement_seen")
"""Figures of an iteration that are kept from a run's log, where it has them."""


@dataclass(frozen=True)
class Arm:
    """A precision in which runs are made.

    Attributes:
        name: Name of the arm in tables.
        config: Configuration file of the arm on top of the base; empty for none.
        learning_rate: Learning rate, where it is not that of the other arms.
        options: Dotted keys and values of the arm.
    """

    name: str
    config: str = ""
    learning_rate: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of the arm's folder."""
        return "".join(each if each.isalnum() else "-" for each in self.name)


@dataclass(frozen=True)
class Spec:
    """The specification of the runs; `learning.yaml` explains each field."""

    base: str
    policy: str
    seeds: tuple[int, ...]
    learning_rate: float
    options: dict[str, Any]
    arms: tuple[Arm, ...]


def load_spec(path: Path) -> Spec:
    """Reads a specification.

    Raises:
        UserError: The file cannot be read, lacks a field or has an unknown one.
    """
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        arms = tuple(Arm(**arm) for arm in text["arms"])
        spec = Spec(**{**text, "seeds": tuple(text["seeds"]), "arms": arms})
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; see benchmarks/precision/learning.yaml") from error
    if len({arm.key for arm in arms}) < len(arms):
        raise UserError(f"{path}: two arms have the same name; give each a name of its own")
    return spec


def learning(out: Path = Path("runs/precision"), spec: Path = SPEC, processes: int = 1, collect: bool = False) -> None:
    """Trains the embedded policy in each precision, several seeds each, with the command line of the package.

    The results are the lines of OUT/learning.jsonl, which is written anew from the finished runs. The command can be
    interrupted at any time; the same command continues, and runs nothing twice.

    Args:
        out: Folder of the results and, in learning/, of the runs with their logs.
        spec: Specification of the runs, a YAML file.
        processes: Number of runs at a time, with one thread each.
        collect: Whether to start no run, and to write the results of those that are finished.
    """
    experiment = load_spec(spec)
    policy = out / "policy"
    if not (policy / "config.json").exists():
        export_policy(rounded_policy(experiment.policy), policy)
    # Seed by seed, so that an interrupted study can be read.
    jobs = {_job(experiment, arm, policy, seed): arm for seed in experiment.seeds for arm in experiment.arms}
    runner = Runner(out / "learning", processes)
    if collect:
        results = {job: result for job in jobs if (result := runner.finished(job)) is not None}
    else:
        results = runner.run(jobs, "learning")
    lines = [json.dumps(_row(job, jobs[job], results[job], runner.folder)) for job in results]
    (out / "learning.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"written to {out / 'learning.jsonl'}")


def _job(spec: Spec, arm: Arm, policy: Path, seed: int) -> Job:
    files = [spec.base, *([arm.config] if arm.config else [])]
    options = {"model.policy": str(policy), **spec.options, **arm.options}
    arguments = [f"--config={file}" for file in files] + [f"--{key}={value}" for key, value in options.items()]
    method = Method(arm.name, arm.key, tuple(arguments), trained=True)
    return Job(method, arm.learning_rate or spec.learning_rate, "test", seed)


def _row(job: Job, arm: Arm, result: Result, folder: Path) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "seed": job.seed,
        "learning_rate": job.learning_rate,
        "before": result.curve[0][1],
        "after": result.accuracy,
        "curve": [accuracy for _, accuracy in result.curve],
        "evaluated": evaluated(folder / job.name / "run" / "evaluations.jsonl"),
        "std_over_repeats": result.std,
        "updates": result.updates,
        "iterations": logged(folder / job.name / "run" / "metrics.csv"),
        "cpu_seconds": result.cpu_seconds,
        "error": result.error,
        "commit": result.commit,
    }


def evaluated(file: Path) -> list[int]:
    """The iterations after which a run was evaluated."""
    return [json.loads(line)["iteration"] for line in file.read_text(encoding="utf-8").splitlines()]


def logged(file: Path) -> list[dict[str, float]]:
    """The figures in `LOGGED` of each iteration of a run, from the rows of its log."""
    iterations: dict[int, dict[str, float]] = {}
    with file.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            figures = {name: float(row[f"iteration/{name}"]) for name in LOGGED if row.get(f"iteration/{name}")}
            if figures:
                number = int(float(row["iteration"]))
                iterations.setdefault(number, {"iteration": number}).update(figures)
    return list(iterations.values())
