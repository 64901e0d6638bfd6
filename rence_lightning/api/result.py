"""What `fit` and `validate` return."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rence_lightning.api.policy import TrainedPolicy
from rence_lightning.evaluation import read_evaluations


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        run_dir: Directory with all files of the run.
        evaluations: Evaluations in their order, as `evaluations.jsonl` has them: `iteration`, `average`, and the
            figures of each benchmark under `benchmarks`; shares are in [0, 1].
        metrics: Rows of `metrics.csv`, each with the figures that it holds, by name.
        policy: Policy as the run left it.
    """

    run_dir: Path
    evaluations: list[dict[str, Any]] = field(repr=False)
    metrics: list[dict[str, float]] = field(repr=False)
    policy: TrainedPolicy = field(repr=False)

    @classmethod
    def of(cls, run_dir: Path, policy: TrainedPolicy) -> "Result":
        """The result of the run in a directory."""
        evaluations, metrics = run_dir / "evaluations.jsonl", run_dir / "metrics.csv"
        return cls(
            run_dir,
            read_evaluations(evaluations) if evaluations.exists() else [],
            _rows(metrics) if metrics.exists() else [],
            policy,
        )

    @property
    def before(self) -> Mapping[str, float]:
        """Average correctness (avg@k) of each benchmark in the first evaluation."""
        return _averages(self.evaluations[0]) if self.evaluations else {}

    @property
    def after(self) -> Mapping[str, float]:
        """Average correctness (avg@k) of each benchmark in the last evaluation."""
        return _averages(self.evaluations[-1]) if self.evaluations else {}

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Steps (updates done) and values of one of the metrics, such as `rollouts/correct`."""
        return [(int(row["step"]), row[name]) for row in self.metrics if name in row]

    def __repr__(self) -> str:
        before, after = self.before, self.after
        shown = [
            f"{name}: {before[name]:.1%} -> {share:.1%}"
            if len(self.evaluations) > 1 and name in before
            else f"{name}: {share:.1%}"
            for name, share in after.items()
        ]
        return f"Result({', '.join([repr(str(self.run_dir)), *shown])})"


def _averages(evaluation: Mapping[str, Any]) -> dict[str, float]:
    return {name: figures["avg"] for name, figures in evaluation["benchmarks"].items()}


def _rows(metrics: Path) -> list[dict[str, float]]:
    with metrics.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
