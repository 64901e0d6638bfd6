"""The lines that `Progress` prints for iterations: a table that fits 100 columns, and rates and times for people."""

from dataclasses import dataclass

WIDTH = 100
"""Largest number of columns of a line."""

LEGEND = "kept: groups trained on / groups sampled; rollouts, updates: time spent; left: time left, estimated"

_COLUMNS = {
    "correct": 7,
    "reward": 6,
    "length": 6,
    "kept": 8,
    "loss": 7,
    "kl": 8,
    "rollouts": 8,
    "updates": 7,
    "left": 7,
}
"""Headings of the table, and the widths of their columns."""


@dataclass(frozen=True)
class IterationLine:
    """One iteration, as it is printed.

    Attributes:
        iteration: Number of the iteration, counted from 1.
        iterations: Number of iterations of the whole run.
        correct: Share of correct responses among all sampled, in [0, 1].
        reward: Mean reward of all responses sampled.
        length: Mean length of all responses sampled, in tokens.
        kept: Number of groups trained on.
        sampled: Number of groups sampled.
        loss: Mean loss of the updates, None where there was none.
        kl: Mean KL divergence to the old policy, None where there was no update.
        rollouts: Time of the rollouts, in seconds.
        updates: Time of the updates, in seconds.
        left: Estimated time left of the run, in seconds.
    """

    iteration: int
    iterations: int
    correct: float
    reward: float
    length: float
    kept: int
    sampled: int
    loss: float | None
    kl: float | None
    rollouts: float
    updates: float
    left: float

    @property
    def heading(self) -> str:
        """The headings, aligned with the line."""
        return _aligned(" " * len(self._label), list(_COLUMNS))

    def __str__(self) -> str:
        cells = {
            "correct": f"{self.correct:.1%}",
            "reward": _number(self.reward, _COLUMNS["reward"]),
            "length": f"{self.length:.0f}",
            "kept": f"{self.kept}/{self.sampled}",
            "loss": "-" if self.loss is None else _number(self.loss, _COLUMNS["loss"]),
            "kl": "-" if self.kl is None else f"{self.kl:.1e}",
            "rollouts": duration(self.rollouts),
            "updates": duration(self.updates),
            "left": clock(self.left),
        }
        return _aligned(self._label, [cells[heading] for heading in _COLUMNS])

    @property
    def _label(self) -> str:
        return f"iteration {self.iteration:>3}/{self.iterations}"


def _aligned(label: str, cells: list[str]) -> str:
    """Cells under one another; closer together, then out of line, where large numbers would exceed the width."""
    padded = [cell.rjust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True)]
    lines = ["  ".join([label, *padded]), " ".join([label, *padded]), " ".join([label, *cells])]
    return next((line for line in lines if len(line) <= WIDTH), lines[-1])


def _number(value: float, width: int) -> str:
    """A number with up to three decimals, as many as fit."""
    texts = [f"{value:.{decimals}f}" for decimals in (3, 2, 1, 0)]
    return next((text for text in texts if len(text) <= width), f"{value:.0e}")


def duration(seconds: float) -> str:
    """A time as `1.9 s`, and from 100 seconds on as `clock`."""
    return f"{seconds:.1f} s" if seconds < 99.95 else clock(seconds)


def clock(seconds: float) -> str:
    """A time as `0:02:05`, from ten hours on as `12h 05m`, from 100 hours on as `5d 03h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 10:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{hours}h {minutes:02}m" if hours < 100 else f"{hours // 24}d {hours % 24:02}h"


def rate(steps: int, seconds: float, unit: str) -> str:
    """Steps per second, or seconds per step where a step takes longer than one: `2.5 updates/s`, `8.0 s/update`."""
    seconds = max(seconds, 1e-9)
    return f"{steps / seconds:.1f} {unit}s/s" if steps >= seconds else f"{seconds / steps:.1f} s/{unit}"
