"""The checks of a run, from which the verdict follows: one table of figures and their limits."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from math import inf
from statistics import fmean, median
from typing import NamedTuple

from rence_lightning.evaluation import Difference
from rence_lightning.report.run_record import RunRecord

FALLING_ITERATIONS = 3
"""Number of consecutive iterations with falling log-probability of correct responses that is worth a warning."""

Level = IntEnum("Level", {"fine": 0, "watch": 1, "wrong": 2})
"""The result of a check."""


class Finding(NamedTuple):
    """The result of a check: its name, its level, what was found, and what to try (empty where nothing is raised)."""

    name: str
    level: Level
    text: str
    advice: str = ""


class Check(NamedTuple):
    """A row of the table: the series of `metrics.csv` that it watches, the meaning of its figure, the figure as a
    function of the run and the values of the series (None where it means nothing), the values above which it is worth a
    look and wrong, its format, and what to try where it is raised."""

    name: str
    series: str
    what: str
    figure: Callable[[RunRecord, Sequence[float]], float | None]
    watch: float
    wrong: float
    form: str
    advice: str

    def __call__(self, run: RunRecord) -> Finding | None:
        """The result for a run; None where it has no such figure."""
        values = run.values(self.series)
        figure = self.figure(run, values) if values else None
        if figure is None:
            return None
        level = Level.wrong if figure > self.wrong else Level.watch if figure > self.watch else Level.fine
        limits = {"watch": self.watch if self.watch < self.wrong else inf, "wrong": self.wrong}
        shown = ", ".join(f"{name} above {limit:{self.form}}" for name, limit in limits.items() if limit < inf)
        return Finding(self.name, level, f"{self.what}: {figure:{self.form}} ({shown})", self.advice if level else "")


def recent(values: Sequence[float]) -> float:
    """The median of the last quarter of the values, at least three of them: a single outlier raises nothing."""
    return median(values[-max(3, -(-len(values) // 4)) :])


def largest_fall(values: Sequence[float]) -> float:
    """The largest mean fall over `FALLING_ITERATIONS` negative values in a row; 0 where there are none."""
    windows = [values[at : at + FALLING_ITERATIONS] for at in range(len(values) - FALLING_ITERATIONS + 1)]
    return max([0.0, *(-fmean(each) for each in windows if max(each) < 0)])


def kl_target(run: RunRecord) -> float:
    """Limit or target of the KL: the run's own, else the paper's."""
    adaptive = run.setting("adaptive_kl") or {}
    target = adaptive.get("target_kl") if adaptive.get("enabled", True) else None
    return float(run.setting("model.trust_region.delta") or target or 0.01)


def _mismatch(run: RunRecord, values: Sequence[float]) -> float:
    engine = run.setting("data.engine.init_args") or {}
    types = {run.setting("model.dtype"), engine.get("dtype")}
    float32 = run.setting("trainer.precision") in (None, "32-true") and types <= {None, "float32"}
    return recent(values) / (1e-4 if float32 else 3e-2)


def _unfilled(run: RunRecord, values: Sequence[float]) -> float | None:
    wanted = run.setting("data.prompts_per_iteration")
    return fmean(count < wanted for count in values) if isinstance(wanted, int) else None


def _ungraded(run: RunRecord, responses: Sequence[float]) -> float:
    failures = ("grading_crashes", "grading_timeouts", "reward_failures")
    return sum(run.total(f"rollouts/{how}") for how in failures) / max(1.0, *responses)


def _growth(now: float, before: float) -> float:
    return now / before if before else inf if now else 1.0


CHECKS = (
    Check("KL", "iteration/kl", "recent KL to the policy that sampled, as a multiple of its target",
          lambda run, values: recent(values) / kl_target(run), 2, 10, ".3g",
          "Lower the learning rate, take fewer updates an iteration, or raise model.trust_region.kl_coef."),
    Check("KL peak", "iteration/kl", "largest KL of an iteration, as a multiple of its target",
          lambda run, values: max(values) / kl_target(run), 10, inf, ".3g",
          "Read the rollouts of that iteration; a lower learning rate avoids such jumps."),
    Check("correct responses", "iteration/positive_log_ratio",
          f"largest mean fall of their log-probability over {FALLING_ITERATIONS} iterations in a row, in nats",
          lambda _, values: largest_fall(values), 0, 1, ".3g",
          "The policy moves away from correct answers: lower the learning rate, or take fewer updates an iteration."),
    Check("entropy falls", "rollouts/entropy", "entropy at the start, as a multiple of the recent one",
          lambda _, values: _growth(median(values[:3]), recent(values)), 4, 20, ".3g",
          "The responses to a prompt become alike: train for fewer iterations, or raise the temperature."),
    Check("entropy rises", "rollouts/entropy", "recent entropy, as a multiple of that at the start",
          lambda _, values: _growth(recent(values), median(values[:3])), 2, 4, ".3g",
          "The policy becomes random: lower the learning rate."),
    Check("truncation", "rollouts/truncated", "recent share of responses cut at the length limit",
          lambda _, values: recent(values), 0.1, 0.3, ".1%",
          "Raise data.sampling.max_response_tokens, or find out what repeats."),
    Check("engine mismatch", "rollouts/mismatch_abs",
          "recent difference of log-probabilities between engine and trainer, as a multiple of the largest normal one",
          _mismatch, 1, 100, ".3g",
          "The engine samples from another policy: check its dtype, and set old_policy.max_mismatch."),
    Check("skipped updates", "train/updates_skipped", "share of updates whose loss or gradient was not finite",
          lambda run, values: max(values) / run.series("train/updates_skipped")[-1][0], 0, 0.05, ".1%",
          "Lower the learning rate, or set trainer.precision to bf16-mixed."),
    Check("equal rewards", "iteration/grad_norm", "share of iterations without any gradient",
          lambda _, values: fmean(value == 0 for value in values), 0, 0.5, ".0%",
          "Responses to a problem had equal rewards: does the reward tell right from wrong? If so, set data.filter."),
    Check("full batches", "rollouts/groups_trained", "share of iterations that trained on fewer groups than configured",
          _unfilled, 0, 0.5, ".0%",
          "Give more problems that the policy solves sometimes, or raise data.max_draws_per_iteration."),
    Check("correct samples", "rollouts/correct", "share of iterations that sampled no correct response",
          lambda _, values: fmean(value == 0 for value in values), 0, 0.5, ".0%",
          "Check template and reward on a few responses; give easier problems, or solutions first (`warmup`)."),
    Check("grading", "rollouts/responses_total", "share of responses whose grading failed or took too long",
          _ungraded, 0.001, 0.02, ".2%", "Look at these responses; raise the reward's time limit or its retries."),
)  # fmt: skip
"""The figures that are watched, and the values above which they are raised."""


def examine(run: RunRecord) -> list[Finding]:
    """The checks for which the run has figures, those that were raised first; none for a run of `validate`."""
    findings = [_completion(run), *_losses(run), *(check(run) for check in CHECKS)] if run.trains else []
    return sorted((each for each in findings if each is not None), key=lambda each: -each.level)


def in_points(change: Difference) -> str:
    """A change of accuracy with its interval, in percentage points."""
    interval = f"95% interval {100 * change.low:+.1f} to {100 * change.high:+.1f}"
    return f"{100 * (change.b - change.a):+.1f} points, {interval}"


def _losses(run: RunRecord) -> Iterator[Finding]:
    """Whether the last evaluation is below the first and the best one: a loss that is not shown is not ruled out."""
    for name, level, since, change, advice in (
        ("accuracy", Level.wrong, "first", run.change(), "Use an earlier checkpoint, and lower the learning rate."),
        ("best evaluation", Level.watch, "best", run.change(run.best),
         "Use the best checkpoint (export.which: best), or end the run earlier."),
    ):  # fmt: skip
        if change is not None:
            loss = "shown" if change.high < 0 else "ruled out" if change.low >= 0 else "neither shown nor ruled out"
            text = f"since the {since} evaluation {in_points(change)}: a loss is {loss}"
            yield Finding(name, level, text, advice) if change.high < 0 else Finding(name, Level.fine, text)


def _completion(run: RunRecord) -> Finding:
    planned = run.setting("warmup.epochs" if run.identity.command == "warmup" else "trainer.max_iterations")
    error = run.identity.error
    done = f"{run.iterations}{f' of {planned}' if planned else ''} iterations are done"
    advice = f"Continue it with --ckpt_path {shlex.quote(str(run.path))}."
    if error is not None:
        text = f"{done}; then the run ended with an error: {error}"
        return Finding("completion", Level.wrong, text, f"Fix what the error names. {advice}")
    if run.at_end or run.identity.finished or (planned and run.iterations >= planned):
        return Finding("completion", Level.fine, done)
    if run.running:
        return Finding("completion", Level.fine, f"{done}; the run is in progress")
    return Finding("completion", Level.watch, f"{done}; the run was interrupted", advice)


def verdict(findings: Sequence[Finding]) -> str:
    """The verdict in one sentence, with the number of checks that were raised."""
    wrong, watch = (sum(each.level == level for each in findings) for level in (Level.wrong, Level.watch))
    if not wrong and not watch:
        return f"Yes: all {len(findings)} checks passed."
    parts = [f"{count} {what}" for count, what in ((wrong, "failed"), (watch, "to watch")) if count]
    return f"{'No' if wrong else 'Mostly'}: of {len(findings)} checks, {' and '.join(parts)}."
