r"""Compares numbers with reference answers that state a tolerance, such as `1.6 \pm 0.05`.

| reference | also right | wrong |
| --- | --- | --- |
| `1.6 \pm 0.05` | `1.571`, `\frac{\pi}{2}`, `1.6 \text{ cm}` | `1.5`, `1.66` |
| `4.5e33 \pm 5e31` | `4.52 \times 10^{33}` | `4.5e32` |
| `1 \pm \sqrt{2}`, `3 \pm 1` | (two values: not a tolerance) | |
"""

import re
from collections.abc import Callable
from decimal import Decimal

from rence_lightning.rewards.grading.structure import decimal_of

Value = Callable[[str], Decimal | None]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?"
_WITH_TOLERANCE = re.compile(rf"({_NUMBER})\s?\\pm\s?({_NUMBER})")
_FRACTIONAL = re.compile(r"[.eE]")
_UNIT = re.compile(r"(?:\\[,;! ]|\s|~)*\\(?:text|mathrm|textrm|mbox)\{[^{}]*\}(?:\^\{?-?\d\}?)?$")


def within_tolerance(gold: str, prediction: str, value: Value) -> bool | None:
    """Whether a number is within the tolerance of the reference; None where the reference states no tolerance.

    Args:
        gold: Reference answer.
        prediction: Answer to judge; a unit at its end is ignored.
        value: Function that evaluates an expression, and returns None where it is not a real number.
    """
    stated = _WITH_TOLERANCE.fullmatch(gold.strip())
    if stated is None or not _FRACTIONAL.search(stated[2]):
        return None
    bare = _UNIT.sub("", prediction.strip())
    number = decimal_of(bare)
    if number is None:
        number = value(bare)
    return number is not None and abs(number - Decimal(stated[1])) <= Decimal(stated[2])
