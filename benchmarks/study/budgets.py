"""Evaluation of a run at the moments at which methods are compared, and its end at the last of them."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmarks.study.results import Point
from benchmarks.study.spec import BUDGETS
from rence_lightning.callbacks import Callback
from rence_lightning.callbacks.hooks import Figures
from rence_lightning.errors import UserError

if TYPE_CHECKING:
    from rence_lightning.sampling.batch import IterationBatch
    from rence_lightning.training.module import PolicyModule
    from rence_lightning.training.trainer import Trainer

POINTS, TRAINING = "points.json", "training.json"
FIGURES = {
    "correct": "rollouts/correct",
    "answered": "rollouts/answered",
    "length": "rollouts/length",
    "entropy": "rollouts/sampled_entropy",
    "kl": "iteration/kl",
}
"""What is kept of each iteration, and its name in `metrics.csv`."""


class Budgets(Callback):
    """Evaluates the policy after the iterations in which shares of two budgets are spent, and ends the run after both.

    The first evaluation at which a budget is spent is the one at which methods are compared. A run of no iterations is
    evaluated once. `evaluation.every` should be 0, so that the run is not evaluated at other moments. The
    evaluations are in `points.json` in the run directory, and the figures of all iterations in `training.json`.

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
        self.training: list[dict[str, float]] = []
        self._begun = time.process_time()
        self._evaluating = 0.0
        self._before = dict.fromkeys(BUDGETS, 0)

    def on_rollouts_end(self, trainer: "Trainer", module: "PolicyModule", batch: "IterationBatch") -> Figures:
        """The mean of -log pi_old over the sampled tokens, which at temperature 1 and top_p 1 estimates the entropy."""
        sampled = [rollout.log_probs for group in batch.sampled for rollout in group.rollouts]
        return {"sampled_entropy": -sum(map(sum, sampled)) / max(1, sum(map(len, sampled)))}

    def on_train_epoch_end(self, trainer: "Trainer", module: "PolicyModule") -> None:
        spent = {"responses": trainer.datamodule.responses_total, "updates": trainer.global_step}
        self._record(trainer, spent)
        if any(self._passed(budget, share, spent[budget]) for budget in BUDGETS for share in self.shares):
            self._evaluate(trainer, spent)
        self._before = spent
        trainer.should_stop = trainer.should_stop or self._all_spent()

    def on_train_end(self, trainer: "Trainer", module: "PolicyModule") -> None:
        """A run that ends early, because every prompt is mastered, has spent what it will ever spend."""
        if not self.curve or not self._all_spent():
            self._evaluate(trainer, self._before)

    def _record(self, trainer: "Trainer", spent: dict[str, int]) -> None:
        """Keeps the figures of an iteration: of the responses that it sampled, and the KL divergence of its updates."""
        found = {name: trainer.callback_metrics.get(key) for name, key in FIGURES.items()}
        figures = {name: round(float(value), 6) for name, value in found.items() if value is not None}
        self.training.append({**spent, "cpu_seconds": self._seconds(), **figures})
        (trainer.run_dir / TRAINING).write_text(json.dumps(self.training), encoding="utf-8")

    def _seconds(self) -> float:
        """CPU seconds of training so far."""
        return round(time.process_time() - self._begun - self._evaluating, 2)

    def _all_spent(self) -> bool:
        return all(self._before[budget] >= size for budget, size in self.budgets.items())

    def _passed(self, budget: str, share: float, spent: int) -> bool:
        """Whether this iteration is the first after which the share of the budget is spent."""
        return self._before[budget] < share * self.budgets[budget] <= spent

    def _evaluate(self, trainer: "Trainer", spent: dict[str, int]) -> None:
        begun, seconds = time.process_time(), self._seconds()
        trainer.evaluate()
        lines = (trainer.run_dir / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
        accuracy = json.loads(lines[-1])["average"]
        point = Point(trainer.current_epoch, spent["updates"], spent["responses"], seconds, accuracy)
        self.curve.append(point)
        points = [asdict(each) for each in self.curve]
        (trainer.run_dir / POINTS).write_text(json.dumps(points), encoding="utf-8")
        self._evaluating += time.process_time() - begun
