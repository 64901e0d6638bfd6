"""What responses look like, early and late: the same problem in two evaluations, and groups that were trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rence_lightning.evaluation import EvaluatedProblem
from rence_lightning.report.charts import OUTCOMES
from rence_lightning.report.run_record import RunRecord

PROBLEMS_SHOWN, OTHERS_SHOWN = 6, 3
"""Number of problems of each kind whose samples are shown, for each benchmark: of those that changed (or were sampled
once), and of those that did not."""

FILES_SEARCHED = 5
"""Number of logs of early iterations that are searched for a prompt of the last one."""

BETTER, WORSE = "solved more often than before", "solved less often than before"
NEVER, STILL, OFTEN = "never solved", "solved sometimes, as often as before", "solved every time, as before"
SOMETIMES, ALWAYS = "solved sometimes", "solved every time"


@dataclass(frozen=True)
class Comparison:
    """Problems of a benchmark with the same change from the first to the last evaluation.

    Attributes:
        benchmark: Name of the benchmark.
        kind: Description of the change, such as "solved more often than before".
        count: Number of such problems, of which `problems` may be the first few.
        problems: Samples of each problem in the first and in the last evaluation; None for the first where there is
            only one evaluation.
    """

    benchmark: str
    kind: str
    count: int
    problems: list[tuple[EvaluatedProblem | None, EvaluatedProblem]]


def comparisons(run: RunRecord) -> list[Comparison]:
    """The problems of all benchmarks by their change: changed ones first, the larger number before the smaller."""
    return [each for name in run.benchmarks for each in _of_benchmark(run, name)]


def _of_benchmark(run: RunRecord, benchmark: str) -> Iterator[Comparison]:
    single = len(run.evaluations) == 1
    before = {} if single else run.samples(run.evaluations[0]["iteration"], benchmark)
    changes: dict[str, list[tuple[EvaluatedProblem | None, EvaluatedProblem]]] = {}
    for key, after in run.samples(run.evaluations[-1]["iteration"], benchmark).items():
        pair = (before.get(key), after)
        changes.setdefault(_kind(*pair), []).append(pair)
    for kind in sorted(changes, key=lambda kind: (kind not in (BETTER, WORSE), -len(changes[kind]))):
        number = OTHERS_SHOWN if kind in (STILL, OFTEN) else PROBLEMS_SHOWN
        yield Comparison(benchmark, kind, len(changes[kind]), changes[kind][:number])


def _kind(before: EvaluatedProblem | None, after: EvaluatedProblem) -> str:
    now = fmean(sample.correct for sample in after.samples)
    if before is None:
        return NEVER if now == 0 else ALWAYS if now == 1 else SOMETIMES
    then = fmean(sample.correct for sample in before.samples)
    if now != then:
        return BETTER if now > then else WORSE
    return NEVER if now == 0 else OFTEN if now == 1 else STILL


@dataclass(frozen=True)
class ShownGroup:
    """A logged group.

    Attributes:
        iteration: Iteration that sampled it.
        outcome: Name of its outcome.
        row: The group as `RolloutLog` writes it.
    """

    iteration: int
    outcome: str
    row: dict[str, Any]


def groups_of_each_outcome(run: RunRecord) -> list[ShownGroup]:
    """One group of each outcome from the first and the last logged iteration."""
    logged = sorted(run.rollout_files)
    shown = []
    for iteration in dict.fromkeys(logged[:1] + logged[-1:]):
        examples: dict[str, dict[str, Any]] = {}
        for group in run.groups(iteration):
            examples.setdefault(group["outcome"], group)
        shown += [ShownGroup(iteration, OUTCOMES[key][0], examples[key]) for key in OUTCOMES if key in examples]
    return shown


def same_prompt(run: RunRecord) -> tuple[ShownGroup, ShownGroup] | None:
    """A prompt that an early and the last logged iteration have both sampled, None where none is found."""
    logged = sorted(run.rollout_files)
    if len(logged) < 2:
        return None
    late = {group["id"]: group for group in run.groups(logged[-1])}
    for iteration in logged[:FILES_SEARCHED]:
        for early in run.groups(iteration) if iteration != logged[-1] else ():
            if (again := late.get(early["id"])) is not None:
                pair = ((iteration, early), (logged[-1], again))
                first, last = (ShownGroup(n, OUTCOMES[row["outcome"]][0], row) for n, row in pair)
                return first, last
    return None
