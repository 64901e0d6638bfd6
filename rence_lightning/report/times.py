"""Where the time of a run went."""

from dataclasses import dataclass

from rence_lightning.report.numbers import clock
from rence_lightning.report.run_record import RunRecord


@dataclass(frozen=True)
class Phase:
    """A part of a run's time.

    Attributes:
        name: Name in the report.
        what: What happens in it.
        colour: Colour in figures.
    """

    name: str
    what: str
    colour: str


PHASES = {
    "rollouts": Phase("rollouts", "sampling, grading and filtering the responses", "blue"),
    "old_policy": Phase("pi_old", "log-probabilities of the responses before the first update", "purple"),
    "updates": Phase("updates", "forward and backward passes, optimizer steps", "green"),
    "evaluation": Phase("evaluation", "sampling and grading the benchmarks", "orange"),
    "other": Phase("other", "checkpoints, the export, logs, starting", "grey"),
}
"""The phases that the callback `Timing` measures, by the name of their figure."""


@dataclass(frozen=True)
class Spent:
    """The time spent in one phase.

    Attributes:
        phase: The phase.
        seconds: Time over the whole run.
        share: Share of the time of all phases.
    """

    phase: Phase
    seconds: float
    share: float


def time_spent(run: RunRecord) -> list[Spent]:
    """The time of each phase, the longest first; empty where the run has not measured it."""
    totals = {key: run.total(f"time/{key}") or 0.0 for key in PHASES}
    whole = sum(totals.values())
    spent = [Spent(PHASES[key], seconds, seconds / whole) for key, seconds in totals.items() if seconds]
    return sorted(spent, key=lambda each: -each.seconds)


def lost_seconds(run: RunRecord) -> dict[str, float]:
    """Time within the rollouts that an engine or a rank was not busy, by reason."""
    names = {
        "rollouts/tail_seconds": "with free places in the engine, while the longest responses ended",
        "rollouts/wait_seconds": "in which a rank waited for the others",
    }
    return {text: seconds for name, text in names.items() if (seconds := run.total(name) or 0.0) >= 0.05}


def summary(spent: list[Spent]) -> str:
    """The answer in one sentence; empty where nothing was measured."""
    if not spent:
        return ""
    whole = clock(sum(each.seconds for each in spent))
    return f"{whole} in all: " + ", ".join(f"{each.share:.0%} {each.phase.name}" for each in spent) + "."
