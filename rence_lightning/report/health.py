"""The checks of a run: its figures against thresholds, all of which are in this file.

Each check is a pure function of figures of `metrics.csv`. It returns None where the run has no such figures. *Recent*
figures are those of the last quarter of the iterations, at least three; their median is compared, so that a single
outlier raises nothing.
"""

import math
from collections.abc import Sequence
from statistics import median

from rence_lightning.evaluation import Difference
from rence_lightning.report.numbers import number, share
from rence_lightning.report.verdict import Check, Level, check

KL_WATCH, KL_WRONG = 2.0, 10.0
"""Recent KL to the policy that sampled, as a multiple of its target."""

KL_TARGET = 0.01
"""Target of the KL in nats per token where the run has none of its own: the paper's."""

FALLING_ITERATIONS = 3
"""Number of consecutive iterations with falling log-probability of correct responses that raises the check, as in the
warning of a run."""

FALLING_WRONG = -1.0
"""Log-ratio of correct responses over such iterations, or recently, in nats for a response: at -1 they have become e
times less likely within an iteration."""

ENTROPY_LOW_WATCH, ENTROPY_LOW_WRONG = 0.25, 0.05
"""Recent entropy as a share of that of the first iterations: below, the K responses become copies of one another."""

ENTROPY_HIGH_WATCH, ENTROPY_HIGH_WRONG = 2.0, 4.0
"""Recent entropy as a multiple of that of the first iterations: above, the policy becomes random."""

TRUNCATED_WATCH, TRUNCATED_WRONG = 0.1, 0.3
"""Recent share of responses that were cut at the length limit."""

MISMATCH = {"float32": (1e-4, 1e-2), "lower": (3e-2, 1e-1)}
"""Recent mean absolute difference between the log-probabilities of engine and trainer per token, above which to watch
and above which it is wrong: where all compute in float32 (1e-6 is normal), and in a lower precision (1e-2 is normal).
"""

SKIPPED_WRONG = 0.05
"""Share of updates that were skipped because their loss or gradient was not finite."""

OVERFLOWS = 10
"""Number of overflows of a scaled gradient that are ordinary in a run of any length."""

UNFILLED_WRONG = 0.5
"""Share of iterations that trained on fewer groups than configured."""

UNGRADED_WATCH, UNGRADED_WRONG = 0.001, 0.02
"""Share of responses whose grading crashed or exceeded its time."""

MOVEMENT_WATCH = 0.5
"""Recent share of the master weights' movement that the copy which computes sees."""


def recent(values: Sequence[float]) -> float:
    """The median of the last quarter of the values, at least three of them."""
    return median(values[-max(3, -(-len(values) // 4)) :])


def graded(value: float, watch: float, wrong: float) -> Level:
    """The level of a figure that should be small."""
    return Level.WRONG if value > wrong else Level.WATCH if value > watch else Level.FINE


# ---- the checks -----------------------------------------------------------------------------------------------------


def completion(iterations: int, planned: int | None, finished: bool | None, running: bool, error: str | None) -> Check:
    """Whether the run reached its end.

    Args:
        iterations: Number of completed iterations.
        planned: Number of configured iterations, None where it is not known.
        finished: Whether all files were written at the end, None where it is not known.
        running: Whether a process is writing to the run.
        error: Error that ended the run, None where there was none.
    """
    done = f"{iterations}{f' of {planned}' if planned is not None else ''} iterations are done"
    complete = planned is not None and iterations >= planned
    if error is not None:
        return check("completion", Level.WRONG, f"{done}; then the run ended with an error: {error}", "")
    if finished or complete or (finished is None and planned is None):
        early = "" if complete or planned is None else "; the run ended early, by itself"
        return check("completion", Level.FINE, f"{done}{early}.", "")
    if running:
        return check("completion", Level.FINE, f"{done}; the run is in progress.", "")
    return check(
        "completion", Level.WATCH, f"{done}; the run was interrupted.", "Continue it with --ckpt_path RUN_DIRECTORY."
    )


def accuracy(change: Difference | None, since_best: Difference | None, best: int) -> Check | None:
    """Whether the evaluations got worse.

    Args:
        change: Difference between the first and the last evaluation.
        since_best: Difference between the best and the last evaluation, None where they are the same.
        best: Iteration of the best evaluation.
    """
    if change is None:
        return None
    level, finding = Level.FINE, "The last evaluation is not below the first, nor below the best."
    if change.high < 0:
        level = Level.WRONG
        finding = f"Accuracy fell by {100 * (change.a - change.b):.1f} points from the first to the last evaluation."
    elif since_best is not None and since_best.high < 0:
        level = Level.WATCH
        lost = 100 * (since_best.a - since_best.b)
        finding = f"Accuracy is {lost:.1f} points below that of iteration {best}, the best evaluation."
    return check("accuracy", level, finding, "Use the best checkpoint (export.which: best), or end the run earlier.")


def kl(values: Sequence[float], target: float | None) -> Check | None:
    """Whether the policy stays near the one that sampled.

    Args:
        values: Mean KL of each iteration, in the reduction of the target.
        target: Target of the KL, None where none is meaningful.
    """
    if not values or target is None:
        return None
    now, peak = recent(values), max(values)
    level = graded(now / target, KL_WATCH, KL_WRONG)
    if not level and peak > KL_WRONG * target:
        level = Level.WATCH
    finding = f"KL to the policy that sampled: {number(now)} recently, at most {number(peak)}; target {number(target)}."
    advice = "Lower the learning rate, take fewer updates an iteration, or raise model.trust_region.kl_coef."
    return check("KL", level, finding, advice)


def positives(values: Sequence[float]) -> Check | None:
    """Whether the log-probability of correct responses rises.

    Args:
        values: Mean log-ratio of the correct responses in each iteration, in nats for a response.
    """
    if not values:
        return None
    runs = [values[at : at + FALLING_ITERATIONS] for at in range(len(values) - FALLING_ITERATIONS + 1)]
    falls = [sum(each) / len(each) for each in runs if max(each) < 0]
    level = Level.FINE
    if falls:
        level = Level.WATCH
    if min([*falls, recent(values)]) < FALLING_WRONG:
        level = Level.WRONG
    falling = sum(value < 0 for value in values)
    finding = (
        f"The log-probability of correct responses changes by {recent(values):+.3g} nats within a recent iteration; "
        f"it fell in {falling} of {len(values)} iterations"
        + (f", {FALLING_ITERATIONS} or more in a row." if falls else ", never three in a row.")
    )
    advice = "The policy moves away from correct answers: lower the learning rate, or take fewer updates an iteration."
    return check("log-ratio of positives", level, finding, advice)


def entropy(values: Sequence[float]) -> Check | None:
    """Whether the policy still explores, and has not become random.

    Args:
        values: Entropy of the policy in each iteration, in nats per token.
    """
    if not values:
        return None
    first, now = median(values[:3]), recent(values)
    ratio = now / first if first > 0 else 1.0
    level = max(graded(-ratio, -ENTROPY_LOW_WATCH, -ENTROPY_LOW_WRONG),
                graded(ratio, ENTROPY_HIGH_WATCH, ENTROPY_HIGH_WRONG))  # fmt: skip
    advice = (
        "The responses to a prompt become alike: train for fewer iterations, or raise the temperature."
        if ratio < 1
        else "The policy becomes random: lower the learning rate."
    )
    finding = f"Entropy in nats per token: {number(first)} at the start, {number(now)} recently ({ratio:.2g} times)."
    return check("entropy", level, finding, advice)


def truncation(values: Sequence[float]) -> Check | None:
    """Whether responses end before the length limit.

    Args:
        values: Share of responses cut at the limit in each iteration.
    """
    if not values:
        return None
    now = recent(values)
    level = graded(now, TRUNCATED_WATCH, TRUNCATED_WRONG)
    finding = f"{share(now)} of recent responses were cut at the length limit, {share(max(values))} at most."
    return check("truncation", level, finding, "Raise data.sampling.max_response_tokens, or find out what repeats.")


def mismatch(values: Sequence[float], float32: bool) -> Check | None:
    """Whether the engine samples from the policy that is trained.

    Args:
        values: Mean absolute difference per token between the log-probabilities of engine and trainer.
        float32: Whether trainer and engine both compute in float32.
    """
    if not values:
        return None
    now = recent(values)
    watch, wrong = MISMATCH["float32" if float32 else "lower"]
    finding = (
        f"Log-probabilities of engine and trainer differ by {now:.1g} per token recently; up to {watch:.0g} is normal "
        f"{'in float32' if float32 else 'below float32'}."
    )
    advice = "The engine samples from another policy: check its dtype, and set old_policy.max_mismatch."
    return check("engine mismatch", graded(now, watch, wrong), finding, advice)


def skipped(count: int, updates: int, overflowed: int = 0) -> Check | None:
    """Whether updates were skipped.

    Args:
        count: Number of updates skipped because their loss or gradient was not finite.
        updates: Number of updates, those skipped included.
        overflowed: Number of updates skipped because their scaled gradient overflowed; a few find the scale.
    """
    if not updates:
        return None
    level = graded(count / updates, 0.0, SKIPPED_WRONG)
    finding = f"{count} of {updates} updates were skipped because a loss or gradient was not finite."
    if overflowed > max(OVERFLOWS, SKIPPED_WRONG * updates):
        level = max(level, Level.WATCH)
        finding += f" {overflowed} more overflowed in float16."
    return check("skipped updates", level, finding, "Lower the learning rate, or set trainer.precision to bf16-mixed.")


def batches(trained: Sequence[float], wanted: int | None) -> Check | None:
    """Whether iterations found the groups that they were to train on.

    Args:
        trained: Number of groups that each iteration trained on.
        wanted: Configured number, None where it is not known.
    """
    if not trained or wanted is None:
        return None
    unfilled = sum(count < wanted for count in trained)
    level = graded(unfilled / len(trained), 0.0, UNFILLED_WRONG)
    finding = f"{unfilled} of {len(trained)} iterations trained on fewer than the configured {wanted} groups."
    advice = "Give more problems that the policy solves sometimes, or raise data.max_draws_per_iteration."
    return check("full batches", level, finding, advice)


def correctness(values: Sequence[float]) -> Check | None:
    """Whether there is anything correct to learn from.

    Args:
        values: Share of correct responses in each iteration.
    """
    if not values:
        return None
    none = sum(value == 0 for value in values)
    level = Level.WRONG if recent(values) == 0 else graded(none, 0, math.inf)
    finding = f"{none} of {len(values)} iterations sampled no correct response."
    return check(
        "correct samples", level, finding, "Check template and reward on a few responses, or give easier problems."
    )


def grading(failures: float, responses: float) -> Check | None:
    """Whether the reward could grade the responses.

    Args:
        failures: Number of responses whose grading crashed or took too long.
        responses: Number of responses.
    """
    if not responses:
        return None
    level = graded(failures / responses, UNGRADED_WATCH, UNGRADED_WRONG)
    finding = f"The grading of {failures:,.0f} of {responses:,.0f} responses crashed or took too long."
    return check("grading", level, finding, "Raise data.reward.init_args.timeout, or look at these responses.")


def movement(seen: Sequence[float], changed: Sequence[float]) -> Check | None:
    """Whether the copy of the weights that computes follows the weights that are trained.

    Args:
        seen: Share of the master weights' movement within each iteration that the computing copy sees.
        changed: Share of the computing copy's weights that an iteration changed.
    """
    if not seen and not changed:
        return None
    level, parts = Level.FINE, []
    if seen:
        level = graded(-recent(seen), -MOVEMENT_WATCH, math.inf)
        parts.append(f"the weights that compute follow {share(recent(seen))} of the movement of those that are trained")
    if changed:
        level = Level.WRONG if recent(changed) == 0 else level
        parts.append(f"{share(recent(changed))} of them change in an iteration")
    advice = (
        "Rounding hides the updates within an iteration: see docs/precision.md for float16 and stochastic rounding."
    )
    return check("precision", level, f"Recently, {', and '.join(parts)}.", advice)


def contamination(found: int, left_out: int) -> Check:
    """Whether benchmark problems were trained on.

    Args:
        found: Number of benchmark problems found in the training data.
        left_out: Number of training problems that were left out for it.
    """
    level = Level.WATCH if found and not left_out else Level.FINE
    finding = "No benchmark problem was found in the training data."
    if found:
        finding = f"{found:,} benchmark problems were found in the training data; {left_out:,} problems were left out."
    return check("contamination", level, finding, "The accuracy on these problems is not a test of what was learned.")
