"""The finished runs of the study "tables", by task and method, in percent."""

from collections.abc import Sequence
from statistics import fmean

from benchmarks.study.choice import Scores, best
from benchmarks.study.outcome import BUDGETS, Outcome
from benchmarks.study.spec import REFERENCE, Spec
from benchmarks.study.statistics import Interval, mean_interval, paired_difference


class Rows:
    """The runs of the tables with the learning rates that the validation problems choose.

    Runs may be missing: a rate counts once all of its selection seeds are finished, and a method without one has no
    runs.

    Args:
        spec: Specification of the study.
        outcomes: Finished runs; those of other studies are left out.
    """

    def __init__(self, spec: Spec, outcomes: Sequence[Outcome]) -> None:
        self.spec = spec
        self._runs: dict[tuple[str, str, str, float | None], dict[int, Outcome]] = {}
        for each in outcomes:
            if each.study == "tables":
                runs = self._runs.setdefault((each.task, each.method, each.split, each.learning_rate), {})
                runs[each.seed] = each

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks with runs of tables; the others have those of questions only."""
        return tuple(
            task
            for task in self.spec.tasks
            if REFERENCE in self.spec.methods_of(task) and any(self.of(task, name) for name in self.trained(task))
        )

    def trained(self, task: str) -> tuple[str, ...]:
        """The methods of the tables on a task, without the policy that is not trained."""
        return tuple(name for name in self.spec.methods_of(task) if self.spec.methods[name].config)

    def selection(self, task: str, method: str) -> dict[float, list[Outcome]]:
        """The runs on the validation problems with all selection seeds, by learning rate."""
        seeds = set(self.spec.selection_seeds)
        return {
            key[3]: [runs[seed] for seed in sorted(seeds)]
            for key, runs in sorted(self._runs.items(), key=lambda item: item[0][3] or 0.0)
            if key[:3] == (task, method, "validation") and key[3] is not None and seeds <= runs.keys()
        }

    def scores(self, task: str, method: str) -> Scores:
        """Mean validation accuracy over seeds and budgets, by learning rate."""
        return {
            rate: 100 * fmean(run.accuracy(budget) for run in runs for budget in BUDGETS)
            for rate, runs in self.selection(task, method).items()
        }

    def rate(self, task: str, method: str) -> float | None:
        """The chosen learning rate; None for a method that is not trained, or whose choice is not finished."""
        scores = self.scores(self.spec.tasks[task].rates_of or task, method)
        return best(scores) if scores else None

    def of(self, task: str, method: str, split: str = "test") -> dict[int, Outcome]:
        """The runs with the chosen learning rate, by seed."""
        rate = self.rate(task, method)
        seeds = self.spec.repeat_seeds if split == "repeat" else self.spec.seeds
        runs = self._runs.get((task, method, split, rate), {})
        return {seed: runs[seed] for seed in seeds if seed in runs}

    def accuracies(self, task: str, method: str, budget: str, split: str = "test") -> dict[int, float]:
        """Sampled pass@1 when a budget is spent, by seed."""
        return {seed: 100 * run.accuracy(budget) for seed, run in self.of(task, method, split).items()}

    def mean(self, task: str, method: str, budget: str) -> Interval | None:
        """The mean over seeds; None without a run."""
        values = self.accuracies(task, method, budget)
        return mean_interval(list(values.values()), 0, 100) if values else None

    def difference(self, task: str, method: str, budget: str, reference: str = REFERENCE) -> Interval | None:
        """The paired difference to a reference; None for the reference itself, and without a common seed."""
        if method == reference:
            return None
        values = self.accuracies(task, method, budget)
        return paired_difference(values, self.accuracies(task, reference, budget), -100, 100)

    def ended_early(self, task: str, method: str) -> list[str]:
        """The shortened messages of the runs that diverged or starved."""
        return [run.short_error for run in self.of(task, method).values() if run.error]
