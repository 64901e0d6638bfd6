"""The checks of the report's verdict: each is raised by a series made for it, and not by a healthy one."""

import inspect
from collections.abc import Callable

import pytest

from rence_lightning.evaluation import Difference
from rence_lightning.report import health
from rence_lightning.report.health import recent
from rence_lightning.report.numbers import share
from rence_lightning.report.verdict import Check, Level, verdict, worst

FINE, WATCH, WRONG = Level


def difference(a: float, b: float, margin: float = 0.02) -> Difference:
    return Difference(100, a, b, b - a - margin, b - a + margin, 0, 0)


CASES: list[tuple[Callable[..., Check | None], tuple[object, ...], Level]] = [
    (health.completion, (20, 20, True, False, None), FINE),
    (health.completion, (12, 20, True, False, None), FINE),  # all mastered
    (health.completion, (12, 20, False, True, None), FINE),  # in progress
    (health.completion, (20, 20, None, False, None), FINE),  # of a version without run.json
    (health.completion, (12, 20, None, False, None), WATCH),
    (health.completion, (12, 20, False, False, None), WATCH),
    (health.completion, (12, 20, False, False, "StarvationError: nothing"), WRONG),
    (health.accuracy, (difference(0.3, 0.5), None, 20), FINE),
    (health.accuracy, (difference(0.3, 0.31), difference(0.32, 0.31), 10), FINE),  # within the noise
    (health.accuracy, (difference(0.3, 0.4), difference(0.5, 0.4), 10), WATCH),
    (health.accuracy, (difference(0.3, 0.2), None, 0), WRONG),
    (health.kl, ([0.0, 0.005, 0.02], 0.01), FINE),
    (health.kl, ([0.5, *[0.01] * 11], 0.01), WATCH),  # one iteration, long ago
    (health.kl, ([0.01] * 9 + [0.05] * 3, 0.01), WATCH),
    (health.kl, ([0.01] * 9 + [0.2] * 3, 0.01), WRONG),
    (health.kl, ([0.01] * 9 + [0.2] * 3, 1.0), FINE),  # of a sum over the sequence, with its own target
    (health.positives, ([0.1, 0.2, -0.1, 0.1, -0.1, -0.1, 0.2],), FINE),
    (health.positives, ([0.1, -0.1, -0.2, -0.1, 0.1],), WATCH),
    (health.positives, ([0.1, -0.1, -4.0, -0.1, 0.1],), WRONG),
    (health.positives, ([-1.8],), WRONG),
    (health.entropy, ([0.2] * 6 + [0.1] * 3,), FINE),
    (health.entropy, ([0.2] * 6 + [0.04] * 3,), WATCH),
    (health.entropy, ([0.2] * 6 + [0.005] * 3,), WRONG),
    (health.entropy, ([0.2] * 6 + [0.5] * 3,), WATCH),
    (health.entropy, ([0.2] * 6 + [1.0] * 3,), WRONG),
    (health.entropy, ([0.2] * 6 + [1.0] + [0.2] * 2,), FINE),  # an outlier
    (health.truncation, ([0.5, 0.3, 0.1, 0.05, 0.05, 0.05],), FINE),  # it has learned to end
    (health.truncation, ([0.0, 0.0, 0.15, 0.2, 0.2],), WATCH),
    (health.truncation, ([0.0, 0.0, 0.5, 0.6, 0.9],), WRONG),
    (health.mismatch, ([3e-7] * 4, True), FINE),
    (health.mismatch, ([1e-3] * 4, True), WATCH),
    (health.mismatch, ([5e-2] * 4, True), WRONG),
    (health.mismatch, ([1e-2] * 4, False), FINE),  # normal in bfloat16
    (health.mismatch, ([5e-2] * 4, False), WATCH),
    (health.mismatch, ([0.3] * 4, False), WRONG),
    (health.skipped, (0, 40), FINE),
    (health.skipped, (1, 40), WATCH),
    (health.skipped, (4, 40), WRONG),
    (health.skipped, (0, 40, 3), FINE),  # the search for float16's scale
    (health.skipped, (0, 1600, 80), FINE),
    (health.skipped, (0, 1600, 81), WATCH),
    (health.skipped, (4, 40, 11), WRONG),
    (health.batches, ([24.0, 24.0], 24), FINE),
    (health.batches, ([24.0, 24.0, 7.0], 24), WATCH),
    (health.batches, ([24.0, 7.0, 7.0], 24), WRONG),
    (health.correctness, ([0.1, 0.2, 0.3],), FINE),
    (health.correctness, ([0.0, 0.1, 0.2, 0.3],), WATCH),
    (health.correctness, ([0.2, 0.0, 0.0, 0.0],), WRONG),
    (health.grading, (0.0, 16_000.0), FINE),
    (health.grading, (100.0, 16_000.0), WATCH),
    (health.grading, (1000.0, 16_000.0), WRONG),
    (health.movement, ([0.9, 1.0, 1.0], [0.8, 0.8, 0.8]), FINE),
    (health.movement, ([0.03] * 3, [0.01] * 3), WATCH),
    (health.movement, ([], [0.01] * 3), FINE),
    (health.movement, ([0.03] * 3, [0.0] * 3), WRONG),
    (health.contamination, (0, 0), FINE),
    (health.contamination, (7, 7), FINE),
    (health.contamination, (7, 0), WATCH),
]

MISSING: list[tuple[Callable[..., Check | None], tuple[object, ...]]] = [
    (health.accuracy, (None, None, 0)),
    (health.kl, ([], 0.01)),
    (health.kl, ([0.1], None)),
    (health.positives, ([],)),
    (health.entropy, ([],)),
    (health.truncation, ([],)),
    (health.mismatch, ([], True)),
    (health.skipped, (0, 0, False)),
    (health.batches, ([], 24)),
    (health.batches, ([24.0], None)),
    (health.correctness, ([],)),
    (health.grading, (0.0, 0.0)),
    (health.movement, ([], [])),
]


@pytest.mark.parametrize(
    ("each", "arguments", "level"), CASES, ids=[f"{case[0].__name__}-{at}" for at, case in enumerate(CASES)]
)
def test_each_reason_appears_and_does_not(
    each: Callable[..., Check | None], arguments: tuple[object, ...], level: Level
) -> None:
    found = each(*arguments)
    assert found is not None
    assert found.level == level, found.finding
    assert found.finding[0].isupper() or found.finding[0].isdigit()
    if level == FINE:
        assert not found.advice


@pytest.mark.parametrize(("each", "arguments"), MISSING)
def test_a_run_without_the_figures_has_no_such_check(
    each: Callable[..., Check | None], arguments: tuple[object, ...]
) -> None:
    assert each(*arguments) is None


def test_every_check_is_tested_at_every_level_that_it_has() -> None:
    checks = {
        function.__name__
        for _, function in inspect.getmembers(health, inspect.isfunction)
        if "Check" in str(inspect.signature(function).return_annotation) and function.__name__ != "check"
    }
    assert {case[0].__name__ for case in CASES} == checks
    for name in checks:
        assert len({level for function, _, level in CASES if function.__name__ == name}) >= 2, name


def test_the_verdict_counts_what_was_raised() -> None:
    fine, watch, wrong = (Check(name, level, "...") for name, level in (("a", FINE), ("b", WATCH), ("c", WRONG)))
    assert verdict([fine, fine]) == "Yes: all 2 checks passed."
    assert verdict([fine, watch]) == "Mostly: of 2 checks, 1 to watch."
    assert verdict([fine, watch, wrong]) == "No: of 3 checks, 1 failed and 1 to watch."
    assert (worst([fine]), worst([fine, watch]), worst([wrong, fine])) == (FINE, WATCH, WRONG)


def test_recent_is_the_last_quarter_and_at_least_three() -> None:
    assert recent([9.0, 9.0, 1.0, 2.0, 3.0]) == 2.0
    assert recent([9.0] * 15 + [1.0, 2.0, 3.0, 4.0, 5.0]) == 3.0
    assert recent([4.0]) == 4.0


def test_a_small_share_is_not_shown_as_zero() -> None:
    assert [share(value) for value in (0.0, 0.00004, 0.004, 0.5)] == ["0.0%", "0.004%", "0.4%", "50.0%"]
