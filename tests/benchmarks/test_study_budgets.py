"""The moments at which a run of a study is evaluated, and when it ends."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.study.budgets import POINTS, TRAINING, Budgets
from rence_lightning.errors import UserError


class Run:
    """A trainer that spends what it is told, and whose accuracy grows by a hundredth with each evaluation."""

    def __init__(self, run_dir: Path, **budgets: Any) -> None:
        self.run_dir, self.budgets = run_dir, Budgets(**budgets)
        self.datamodule = SimpleNamespace(responses_total=0)
        self.global_step = self.current_epoch = self.evaluations = 0
        self.should_stop, self.callback_metrics = False, {"rollouts/correct": 0.25}

    def evaluate(self) -> None:
        self.evaluations += 1
        (self.run_dir / "evaluations.jsonl").write_text(json.dumps({"average": self.evaluations / 100}) + "\n")

    def points(self, iterations: list[tuple[int, int]]) -> list[tuple[int, int, int, float]]:
        """What is evaluated in a run whose iterations sample so many responses and make so many updates."""
        for responses, updates in iterations:
            self.current_epoch += 1
            self.datamodule.responses_total += responses
            self.global_step += updates
            self.budgets.on_train_epoch_end(self, None)  # type: ignore[arg-type]
            if self.should_stop:
                break
        self.budgets.on_train_end(self, None)  # type: ignore[arg-type]
        points = json.loads((self.run_dir / POINTS).read_text())
        return [(each["iteration"], each["responses"], each["updates"], each["accuracy"]) for each in points]


@pytest.mark.parametrize(
    ("updates", "shares", "iterations", "points"),
    [
        (16, [0.5, 1.0], [(30, 4)] * 6, [(2, 60, 8, 0.01), (4, 120, 16, 0.02)]),  # ends when both are spent
        (4, [1.0], [(50, 4)] * 3, [(1, 50, 4, 0.01), (2, 100, 8, 0.02)]),  # each budget's first evaluation
        (4, [1.0], [(50, 4), (20, 2)], [(1, 50, 4, 0.01), (2, 70, 6, 0.02)]),  # ended early
        (4, [1.0], [], [(0, 0, 0, 0.01)]),
    ],
)
def test_a_run_is_evaluated_where_a_share_is_first_spent_and_where_it_ends(
    updates: int, shares: list[float], iterations: list[tuple[int, int]], points: Any, tmp_path: Path
) -> None:
    assert Run(tmp_path, responses=100, updates=updates, shares=shares).points(iterations) == points


def test_what_an_iteration_measures_is_kept_and_entropy_is_the_mean_of_minus_log_probabilities(tmp_path: Path) -> None:
    run = Run(tmp_path, responses=100, updates=16)
    group = SimpleNamespace(rollouts=[SimpleNamespace(log_probs=[-1.0, -2.0, -3.0]), SimpleNamespace(log_probs=[-4.0])])
    figures = run.budgets.on_rollouts_end(run, None, SimpleNamespace(sampled=[group]))  # type: ignore[arg-type]
    assert figures == {"sampled_entropy": 2.5}
    run.callback_metrics["rollouts/sampled_entropy"] = 2.5
    run.points([(60, 8), (60, 8)])
    kept = json.loads((tmp_path / TRAINING).read_text())
    assert [{**each, "cpu_seconds": 0} for each in kept] == [
        {"responses": 60 * n, "updates": 8 * n, "cpu_seconds": 0, "correct": 0.25, "entropy": 2.5} for n in (1, 2)
    ]


@pytest.mark.parametrize("settings", [{"responses": 0}, {"updates": 0}, {"shares": [0.5]}])
def test_wrong_budgets_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be >= 1, and the last share 1"):
        Budgets(**{"responses": 1, "updates": 1, **settings})
