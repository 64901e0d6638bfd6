"""The verdict on a run: its checks, each with a level, a finding and what to try."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """The result of a check."""

    FINE = 0
    WATCH = 1
    WRONG = 2


@dataclass(frozen=True)
class Check:
    """One reason for the verdict.

    Attributes:
        name: Name of what was checked.
        level: Result of the check.
        finding: Sentence with the figures.
        advice: What to try, empty where nothing was raised.
    """

    name: str
    level: Level
    finding: str
    advice: str = ""


def check(name: str, level: Level, finding: str, advice: str) -> Check:
    """A check, whose advice is left out where nothing was raised."""
    return Check(name, level, finding, advice if level else "")


def worst(checks: Sequence[Check]) -> Level:
    """The level of the verdict."""
    return max((each.level for each in checks), default=Level.FINE)


def verdict(checks: Sequence[Check]) -> str:
    """The verdict in one sentence, with the number of checks that were raised."""
    wrong, watch = (sum(each.level == level for each in checks) for level in (Level.WRONG, Level.WATCH))
    if not wrong and not watch:
        return f"Yes: all {len(checks)} checks passed."
    parts = [f"{count} {what}" for count, what in ((wrong, "failed"), (watch, "to watch")) if count]
    return f"{'No' if wrong else 'Mostly'}: of {len(checks)} checks, {' and '.join(parts)}."
