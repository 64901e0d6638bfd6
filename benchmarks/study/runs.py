"""The finished runs of the studies, in percent, with the learning rates that the validation problems choose."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from benchmarks.study.results import Outcome
from benchmarks.study.spec import BUDGETS, REFERENCE, Spec
from benchmarks.study.statistics import Interval, mean_interval, paired_difference


class Cell(NamedTuple):
    """A cell of a table: the runs of a method on a task, and at a level of a question."""

    task: str
    method: str
    question: str = ""
    level: str = ""


class Runs:
    """The finished runs, some of which may be missing.

    A learning rate counts once all of its selection seeds are finished; a method without one has no runs.

    Args:
        spec: Specification of the studies.
        outcomes: Finished runs.
    """

    def __init__(self, spec: Spec, outcomes: Iterable[Outcome]) -> None:
        self.spec = spec
        self._runs: defaultdict[tuple[Cell, str, float | None], dict[int, Outcome]] = defaultdict(dict)
        for each in outcomes:
            cell = Cell(each.task, each.method, each.question, each.level)
            self._runs[cell, each.split, each.learning_rate][each.seed] = each

    def scores(self, task: str, method: str) -> dict[float, float]:
        """Mean validation accuracy over seeds and budgets, by learning rate."""
        seeds, wanted = self.spec.selection_seeds, Cell(self.spec.tasks[task].rates_of or task, method)
        return {
            rate: 100 * fmean(runs[seed].accuracy(budget) for seed in seeds for budget in BUDGETS)
            for (cell, split, rate), runs in self._runs.items()
            if (cell, split) == (wanted, "validation") and rate is not None and set(seeds) <= runs.keys()
        }

    def rate(self, task: str, method: str) -> float | None:
        """The chosen learning rate; None for a method that is not trained, or whose choice is not finished."""
        scores = self.scores(task, method)
        return best(scores) if scores else None

    def of(self, cell: Cell, split: str = "test") -> dict[int, Outcome]:
        """The runs of a cell with the chosen learning rate, by seed."""
        seeds = self.spec.repeat_seeds if split == "repeat" else self.spec.seeds
        runs = self._runs.get((cell, split, self.rate(cell.task, cell.method)), {})
        return {seed: runs[seed] for seed in seeds if seed in runs}

    def accuracies(self, cell: Cell, budget: str, split: str = "test") -> dict[int, float]:
        """Sampled pass@1 when a budget is spent, by seed."""
        return {seed: 100 * run.accuracy(budget) for seed, run in self.of(cell, split).items()}

    def mean(self, cell: Cell, budget: str, split: str = "test") -> Interval | None:
        """The mean over seeds; None without a run."""
        values = list(self.accuracies(cell, budget, split).values())
        return mean_interval(values, 0, 100) if values else None

    def difference(self, cell: Cell, budget: str, reference: str = REFERENCE) -> Interval | None:
        """The paired difference to another method in the same place; None without a common seed."""
        values = self.accuracies(cell, budget)
        return paired_difference(values, self.accuracies(cell._replace(method=reference), budget))

    def cells(self) -> list[Cell]:
        """All cells of the tables, and of the questions."""
        tables = [Cell(task, method) for task in self.spec.main_tasks for method in self.spec.methods]
        levels = [
            Cell(level.task, method, question, name)
            for question, each in self.spec.questions.items()
            for name, level in each.levels.items()
            for method in each.methods
        ]
        return tables + levels


def best(scores: Mapping[float, float]) -> float:
    """The rate with the highest score; among equal scores, the lowest rate."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def rates_to_try(scores: Mapping[float, float], rates: Sequence[float], extend: int) -> list[float]:
    """The learning rates to try next.

    If the best rate is at an end of the list, the list is extended by the same factor, at most `extend` times at either
    end, so that no method is at a disadvantage because of where the list ends.

    Args:
        scores: Scores of the rates that were tried.
        rates: Rates to try first.
        extend: Number of further rates at either end.
    """
    if not set(rates) <= scores.keys():
        return list(rates)
    tried, chosen = sorted(scores), best(scores)
    factor = max(rates) / sorted(rates)[-2]
    if chosen == tried[-1] and sum(rate > max(rates) for rate in tried) < extend:
        return [float(f"{chosen * factor:.3g}")]
    if chosen == tried[0] and sum(rate < min(rates) for rate in tried) < extend:
        return [float(f"{chosen / factor:.3g}")]
    return []
