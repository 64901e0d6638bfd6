"""What a part of the check finds: its figures, what failed, and what could not be told on this machine."""

import json
from pathlib import Path
from typing import Any


class Failed(Exception):
    """A part cannot go on; the message is the reason of its verdict."""


class Skipped(Exception):
    """A part cannot tell anything on this machine; the message says why."""


class Findings:
    """The findings of one part, written to a file after each of them, so that a crash or a time limit loses none.

    Args:
        file: JSON file for the findings.

    Attributes:
        figures: Values by name, in the order in which they were found.
        failures: Expectations that were not met, one sentence each.
        skipped: Reasons, by the name of what could not be checked.
        skipped_whole: Reason for which the whole part was skipped, empty if it was not.
        finished: Whether the part came to its end.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.figures: dict[str, Any] = {}
        self.failures: list[str] = []
        self.skipped: dict[str, str] = {}
        self.skipped_whole = ""
        self.finished = False
        self.save()

    def note(self, name: str, value: Any) -> None:
        """Keeps a figure."""
        self.figures[name] = value
        self.save()

    def expect(self, condition: bool, message: str) -> None:
        """Fails the part with this message, unless the condition holds; the part goes on."""
        if not condition:
            self.failures.append(message)
            self.save()

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Keeps a figure, and fails the part if it exceeds its limit or is not a number."""
        self.note(name, value)
        self.expect(value <= limit, f"{name} is {value:.3g}; at most {limit:.3g} was expected")

    def equal(self, name: str, value: Any, expected: Any) -> None:
        """Keeps a figure, and fails the part if it is not the expected one."""
        self.note(name, value)
        self.expect(value == expected, f"{name} is {value}; {expected} was expected")

    def skip(self, name: str, reason: str) -> None:
        """Notes that one of the checks of the part is skipped."""
        self.skipped[name] = reason
        self.save()

    def save(self) -> None:
        """Writes the findings."""
        values = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(values, indent=1, default=str), encoding="utf-8")
        unfinished.replace(self._file)
