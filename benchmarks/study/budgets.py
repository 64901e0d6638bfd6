"""Evaluation of a run at the moments at which methods are compared, and its end at the last of them."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.study.outcome import BUDGETS, Point
from rence_lightning.callbacks import Callback
from rence_lightning.errors import UserError
from rence_lightning.evaluation import Evaluation, macro_average
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

POINTS = "points.json"


class Budgets(Callback):
    """Evaluates the policy after the iterations in which shares of two budgets are spent, and ends the run after both.

    The first evaluation at which a budget is spent is the one at which methods are compared. A run of no iterations is
    evaluated once. `evaluation.every` should be 0, so that the run is not evaluated at other moments. The points are in
    `points.json` in the run directory, as `{"curve": [...], "at": {...}}`.

    Args:
        responses: Number of responses that training samples; those of evaluations are not counted.
        updates: Number of optimizer updates.
        shares: Shares of a budget at which the policy is evaluated; the last one is 1.
    """

    def __init__(self, responses: int, updates: int, shares: list[float] | None = None) -> None:
        self.shares = shares or [1.0]
        if min(responses, updates) < 1 or sorted(self.shares)[-1] != 1.0:
            raise UserError(f"Budgets: responses {responses} and updates {updates} must be >= 1, and the last share 1")
        self.budgets = {"responses": responses, "updates": updates}
        self.curve: list[Point] = []
        self.at: dict[str, Point] = {}
        self._accuracy = 0.0
        self._begun = time.process_time()
        self._evaluating = 0.0
        self._before = dict.fromkeys(BUDGETS, 0)

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        spent = {"responses": trainer.datamodule.responses_total, "updates": trainer.global_step}
        if any(self._passed(budget, share, spent[budget]) for budget in BUDGETS for share in self.shares):
            self._evaluate(trainer, spent)
        self._before = spent
        trainer.should_stop = trainer.should_stop or len(self.at) == len(BUDGETS)

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        """A run that ends early, because every prompt is mastered, has spent what it will ever spend."""
        if not self.curve or len(self.at) < len(BUDGETS):
            self._evaluate(trainer, self._before)
            self.at = {budget: self.at.get(budget, self.curve[-1]) for budget in BUDGETS}
            self._write(trainer.run_dir / POINTS)

    def on_evaluation_end(self, trainer: Trainer, module: PolicyModule, evaluation: Evaluation) -> None:
        self._accuracy = macro_average(evaluation.results)

    def _passed(self, budget: str, share: float, spent: int) -> bool:
        """Whether this iteration is the first after which the share of the budget is spent."""
        return self._before[budget] < share * self.budgets[budget] <= spent

    def _evaluate(self, trainer: Trainer, spent: dict[str, int]) -> None:
        begun = time.process_time()
        trainer.evaluate()
        seconds = round(begun - self._begun - self._evaluating, 2)
        point = Point(trainer.current_epoch, spent["updates"], spent["responses"], seconds, self._accuracy)
        self.curve.append(point)
        for budget in BUDGETS:
            if spent[budget] >= self.budgets[budget]:
                self.at.setdefault(budget, point)
        self._write(trainer.run_dir / POINTS)
        self._evaluating += time.process_time() - begun

    def _write(self, file: Path) -> None:
        curve, at = [asdict(each) for each in self.curve], {name: asdict(each) for name, each in self.at.items()}
        file.write_text(json.dumps({"curve": curve, "at": at}), encoding="utf-8")
