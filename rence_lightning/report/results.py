"""What a run learned: the first and the last evaluation, with the interval of their difference, and problem counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Difference, EvaluatedProblem, compare
from rence_lightning.evaluation.comparison import MACRO
from rence_lightning.report.health import TRUNCATED_WATCH
from rence_lightning.report.numbers import percent
from rence_lightning.report.run_record import RunRecord


@dataclass(frozen=True)
class Counts:
    """Number of problems of a benchmark by how many of their samples are correct.

    Attributes:
        every: Number of problems with correct samples only.
        some: Number of problems with correct and incorrect samples.
        none: Number of problems without a correct sample.
    """

    every: int
    some: int
    none: int

    @classmethod
    def of(cls, problems: Iterable[EvaluatedProblem]) -> "Counts":
        shares = [fmean(sample.correct for sample in problem.samples) for problem in problems]
        every, none = sum(share == 1 for share in shares), sum(share == 0 for share in shares)
        return cls(every, len(shares) - every - none, none)

    def __str__(self) -> str:
        return f"{self.every:,} solved every time, {self.some:,} sometimes, {self.none:,} never"


@dataclass(frozen=True)
class Results:
    """The evaluations of a run.

    Attributes:
        run: Contents of the run directory.
    """

    run: RunRecord

    @cached_property
    def first(self) -> dict[str, Any] | None:
        return self.run.evaluations[0] if self.run.evaluations else None

    @cached_property
    def last(self) -> dict[str, Any] | None:
        return self.run.evaluations[-1] if self.run.evaluations else None

    @property
    def trained(self) -> bool:
        """Whether there are a first and a later evaluation to compare."""
        return len(self.run.evaluations) > 1

    @cached_property
    def differences(self) -> Mapping[str, Difference]:
        """The changes from the first to the last evaluation; empty where there is one, or samples are missing."""
        return self._since(self.run.evaluations[0]["iteration"]) if self.trained else {}

    @cached_property
    def best(self) -> int:
        """Iteration of the evaluation with the highest average."""
        return int(max(self.run.evaluations, key=lambda line: line["average"])["iteration"])

    @property
    def since_best(self) -> Difference | None:
        """The change from the best to the last evaluation; None where the last is the best."""
        if not self.trained or self.last is None or self.best == self.last["iteration"]:
            return None
        return self._whole(self._since(self.best))

    @property
    def change(self) -> Difference | None:
        """The change from the first to the last evaluation over all benchmarks."""
        return self._whole(self.differences)

    def _since(self, iteration: int) -> Mapping[str, Difference]:
        last = self.run.evaluations[-1]["iteration"]
        try:
            return compare(self.run.sample_folder(iteration), self.run.sample_folder(last))
        except UserError:  # samples were removed, or the benchmarks changed during the run
            return {}

    @staticmethod
    def _whole(differences: Mapping[str, Difference]) -> Difference | None:
        return differences.get(MACRO) or next(iter(differences.values()), None)

    def problems(self, iteration: int, benchmark: str) -> int | None:
        """Number of problems of a benchmark, None where the samples are missing and the figures do not say."""
        figures = next(line["benchmarks"] for line in self.run.evaluations if line["iteration"] == iteration)
        number = figures.get(benchmark, {}).get("problems")
        return int(number) if number is not None else len(self.run.samples(iteration, benchmark)) or None

    def counts(self, iteration: int, benchmark: str) -> Counts | None:
        """Problem counts of an evaluation, None where the samples are missing."""
        samples = self.run.samples(iteration, benchmark)
        return Counts.of(samples.values()) if samples else None

    @property
    def where(self) -> str:
        names = self.run.benchmarks
        return f"on {names[0]}" if len(names) == 1 else f"on average over {len(names)} benchmarks"

    def answer(self) -> str:
        """Whether the policy learned, in one or two sentences."""
        if self.first is None or self.last is None:
            return f"Not measured: no benchmark was evaluated.{self._in_training()}"
        if not self.trained:
            return f"Not known yet: there is one evaluation, {percent(self.last['average'])}% {self.where}."
        before, after = self.first["average"], self.last["average"]
        went = f"accuracy {self.where} went from {percent(before)}% to {percent(after)}% in {self.last['iteration']} "
        went += "iteration" if self.last["iteration"] == 1 else "iterations"
        change = self.change
        if change is None:
            return f"{went[0].upper()}{went[1:]}; without samples, there is no interval."
        word = "Yes" if change.low > 0 else "No, it got worse" if change.high < 0 else "Not shown"
        low, high = percent(change.low, sign=True), percent(change.high, sign=True)
        zero = "" if change.sure else ", which contains zero"
        difference = percent(after - before, sign=True)
        return f"{word}: {went} ({difference} points, 95% interval {low} to {high}{zero})."

    def _in_training(self) -> str:
        correct = self.run.values("rollouts/correct")
        if len(correct) < 2:
            return ""
        return (
            f" In training, {percent(correct[0])}% of responses were correct at first, {percent(correct[-1])}% at last."
        )

    def accuracy(self) -> str:
        """The accuracy of the last evaluation in one sentence, for a run of `validate`."""
        if self.last is None:
            return ""
        figures = self.last["benchmarks"]
        sentence = f"{percent(self.last['average'])}% {self.where}"
        if len(figures) == 1:
            (row,) = figures.values()
            if "avg_low" in row:
                sentence += f" (95% interval {percent(row['avg_low'])} to {percent(row['avg_high'])})"
        policy = self.run.evaluated_policy
        sentence = f"{policy} reaches {sentence}{self._how()}." if policy else f"{sentence}{self._how()}."
        cut = [f"{percent(row['truncated'])}% on {name}" for name, row in figures.items()
               if row.get("truncated", 0.0) > TRUNCATED_WATCH]  # fmt: skip
        return f"{sentence} Responses were truncated: {', '.join(cut)}." if cut else sentence

    def _how(self) -> str:
        repeats, temperature = self.run.evaluation_setting("repeats"), self.run.evaluation_setting("temperature")
        parts = [f"{repeats} samples for each problem" if repeats is not None else ""]
        parts.append(f"temperature {temperature:g}" if temperature is not None else "")
        return f", with {' at '.join(filter(None, parts))}" if any(parts) else ""
