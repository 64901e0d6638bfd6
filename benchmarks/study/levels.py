"""The finished runs of the study "when", by question, level and method, in percent."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.study.outcome import BUDGETS, Outcome
from benchmarks.study.rows import Rows
from benchmarks.study.spec import REFERENCE, QuestionSpec, Spec
from benchmarks.study.statistics import Interval, mean_interval, paired_difference


@dataclass(frozen=True)
class Comparison:
    """The difference between the reference and a rival at a level.

    Attributes:
        question: Name of the question.
        level: Name of the level.
        rival: Method that the reference is compared with.
        difference: Paired difference over equal seeds, reference minus rival, in percentage points.
    """

    question: str
    level: str
    rival: str
    difference: Interval


class Levels:
    """The runs of the questions. Runs may be missing.

    Args:
        spec: Specification of the study.
        outcomes: Finished runs; those of the tables are used for the accuracy before training alone.
    """

    def __init__(self, spec: Spec, outcomes: Sequence[Outcome]) -> None:
        self.spec = spec
        self._runs: dict[tuple[str, str, str], dict[int, Outcome]] = {}
        self._starts: dict[str, dict[int, float]] = {}
        rows = Rows(spec, outcomes)
        for each in outcomes:
            if each.study == "when" and each.seed in spec.seeds:
                if rows.rate(each.task, each.method) not in (None, each.learning_rate):
                    continue  # of a rate that was chosen before there were further runs to choose by
                self._runs.setdefault((each.question, each.level, each.method), {})[each.seed] = each
            elif not each.trained and each.split == "test":
                self._starts.setdefault(each.task, {})[each.seed] = 100 * each.start

    @property
    def questions(self) -> tuple[QuestionSpec, ...]:
        """The questions with finished runs."""
        asked = {question for question, _, _ in self._runs}
        return tuple(each for each in self.spec.questions if each.question.name in asked)

    def of(self, question: str, level: str, method: str) -> dict[int, Outcome]:
        """The runs of a method at a level, by seed."""
        return self._runs.get((question, level, method), {})

    def start(self, task: str) -> Interval | None:
        """The accuracy of the policy on the test problems of a task before training."""
        values = self._starts.get(task, {})
        return mean_interval(list(values.values()), 0, 100) if values else None

    def accuracies(self, question: str, level: str, method: str, budget: str) -> dict[int, float]:
        """Sampled pass@1 when a budget is spent, by seed."""
        return {seed: 100 * run.accuracy(budget) for seed, run in self.of(question, level, method).items()}

    def mean(self, question: str, level: str, method: str, budget: str) -> Interval | None:
        """The mean over seeds; None without a run."""
        values = self.accuracies(question, level, method, budget)
        return mean_interval(list(values.values()), 0, 100) if values else None

    def comparison(self, question: str, level: str, rival: str, budget: str) -> Comparison | None:
        """The reference against a rival; None without a common seed."""
        values, reference = (self.accuracies(question, level, method, budget) for method in (REFERENCE, rival))
        difference = paired_difference(values, reference, -100, 100)
        return None if difference is None else Comparison(question, level, rival, difference)

    def comparisons(self, budget: str, questions: Sequence[QuestionSpec] | None = None) -> list[Comparison]:
        """All comparisons at a budget, in the order of questions, levels and methods."""
        return [
            found
            for each in (self.questions if questions is None else questions)
            for level in each.levels
            for rival in each.methods
            if rival != REFERENCE and (found := self.comparison(each.question.name, level, rival, budget)) is not None
        ]

    def distinct(self, budget: str) -> list[Comparison]:
        """The comparisons at a budget, each pair of runs once: levels that are another's default share their runs."""
        found: dict[tuple[tuple[str, ...], ...], Comparison] = {}
        for each in self.comparisons(budget):
            runs = [self.of(each.question, each.level, method) for method in (REFERENCE, each.rival)]
            found.setdefault(tuple(run.command for pair in runs for _, run in sorted(pair.items())), each)
        return list(found.values())

    def missing(self) -> list[str]:
        """What has fewer seeds than are wanted, as text."""
        return [
            f"{each.question.name} {level}, {method} ({count} of {len(self.spec.seeds)})"
            for each in self.spec.questions
            for level in each.levels
            for method in each.methods
            if (count := len(self.of(each.question.name, level, method))) < len(self.spec.seeds)
        ]

    def ended_early(self) -> list[str]:
        """The runs that diverged or starved, as text."""
        return [
            f"{question} {level}, {method}, seed {seed}: {run.short_error}"
            for (question, level, method), runs in self._runs.items()
            for seed, run in runs.items()
            if run.error
        ]


def budgets_of(spec: Spec) -> dict[str, str]:
    """The budgets with their sizes, as text."""
    return {budget: f"{spec.budgets[budget]:,} {budget}" for budget in BUDGETS}
