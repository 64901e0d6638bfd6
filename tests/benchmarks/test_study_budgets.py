"""The moments at which a run of a study is evaluated, and when it ends."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.study.budgets import POINTS, Budgets
from rence_lightning.errors import UserError


class Run:
    """A trainer that spends what it is told, and whose accuracy grows by a hundredth with each evaluation."""

    def __init__(self, run_dir: Path, budgets: Budgets) -> None:
        self.run_dir, self.budgets = run_dir, budgets
        self.datamodule = SimpleNamespace(responses_total=0)
        self.global_step = self.current_epoch = 0
        self.should_stop = False
        self.evaluations = 0

    def evaluate(self) -> None:
        self.evaluations += 1
        result = SimpleNamespace(results={"problems": {"avg": self.evaluations / 100}})
        self.budgets.on_evaluation_end(self, None, result)  # type: ignore[arg-type]

    def iterate(self, responses: int, updates: int) -> None:
        self.current_epoch += 1
        self.datamodule.responses_total += responses
        self.global_step += updates
        self.budgets.on_train_epoch_end(self, None)  # type: ignore[arg-type]

    def end(self) -> dict[str, Any]:
        self.budgets.on_train_end(self, None)  # type: ignore[arg-type]
        points: dict[str, Any] = json.loads((self.run_dir / POINTS).read_text())
        return points


def spent(points: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [(each["iteration"], each["responses"], each["updates"]) for each in points["curve"]]


def test_a_run_is_evaluated_where_a_share_is_first_spent_and_ends_when_both_budgets_are(tmp_path: Path) -> None:
    run = Run(tmp_path, Budgets(responses=100, updates=16, shares=[0.5, 1.0]))
    for _ in range(6):  # 30, 60*, 90, 120* responses; 4, 8*, 12, 16* updates
        if not run.should_stop:
            run.iterate(responses=30, updates=4)
    points = run.end()
    assert spent(points) == [(2, 60, 8), (4, 120, 16)] and run.should_stop and run.evaluations == 2
    assert points["at"]["responses"] == points["at"]["updates"] == points["curve"][-1]


def test_each_budget_has_the_first_evaluation_at_which_it_is_spent(tmp_path: Path) -> None:
    run = Run(tmp_path, Budgets(responses=100, updates=4))
    for _ in range(3):
        run.iterate(responses=50, updates=4)
    points = run.end()
    assert spent(points) == [(1, 50, 4), (2, 100, 8)]
    assert (points["at"]["updates"]["accuracy"], points["at"]["responses"]["accuracy"]) == (0.01, 0.02)


def test_a_run_that_ends_early_counts_with_its_last_policy(tmp_path: Path) -> None:
    run = Run(tmp_path, Budgets(responses=100, updates=4))
    run.iterate(responses=50, updates=4)
    run.iterate(responses=20, updates=2)
    points = run.end()
    assert spent(points) == [(1, 50, 4), (2, 70, 6)]
    assert (points["at"]["updates"]["iteration"], points["at"]["responses"]["iteration"]) == (1, 2)


def test_a_run_of_no_iterations_is_evaluated_once(tmp_path: Path) -> None:
    assert spent(Run(tmp_path, Budgets(responses=100, updates=4)).end()) == [(0, 0, 0)]


@pytest.mark.parametrize("settings", [{"responses": 0}, {"updates": 0}, {"shares": [0.5]}])
def test_wrong_budgets_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be >= 1, and the last share 1"):
        Budgets(**{"responses": 1, "updates": 1, **settings})
