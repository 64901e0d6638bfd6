"""What `fit` and `validate` return."""

import csv
from pathlib import Path
from typing import Any

from rence_lightning.api.policy import TrainedPolicy
from rence_lightning.evaluation import read_evaluations


class Result:
    """A finished run.

    Attributes:
        run_dir: Directory with all files of the run.
        policy: Policy as the run left it.
        evaluations: Evaluations in their order, as `evaluations.jsonl` has them: `iteration`, `average`, and the
            figures of each benchmark under `benchmarks`; shares are in [0, 1].
        metrics: Rows of `metrics.csv`, each with the figures that it holds, by name.
        before: Average correctness (avg@k) of each benchmark in the first evaluation.
        after: Average correctness (avg@k) of each benchmark in the last evaluation.
    """

    def __init__(self, run_dir: Path, policy: TrainedPolicy) -> None:
        self.run_dir, self.policy = run_dir, policy
        evaluations, metrics = run_dir / "evaluations.jsonl", run_dir / "metrics.csv"
        self.evaluations: list[dict[str, Any]] = read_evaluations(evaluations) if evaluations.exists() else []
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        self.metrics = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]
        averages: list[dict[str, float]] = [
            {name: figures["avg"] for name, figures in each["benchmarks"].items()} for each in self.evaluations
        ] or [{}]
        self.before, self.after = averages[0], averages[-1]

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Steps (updates done) and values of one of the metrics, such as `rollouts/correct`."""
        return [(int(row["step"]), row[name]) for row in self.metrics if name in row]

    def __repr__(self) -> str:
        before = self.before if len(self.evaluations) > 1 else {}
        starts = {name: f"{before[name]:.1%} -> " if name in before else "" for name in self.after}
        shown = [f"{name}: {starts[name]}{share:.1%}" for name, share in self.after.items()]
        return f"Result({', '.join([repr(str(self.run_dir)), *shown])})"
