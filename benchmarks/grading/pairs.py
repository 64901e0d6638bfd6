"""Pairs of answers that are labelled by hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LABELLED = Path(__file__).parent / "labelled.txt"


@dataclass(frozen=True)
class Pair:
    """A reference answer, a prediction and their label.

    Attributes:
        category: Section of the file that the pair belongs to.
        gold: Reference answer.
        prediction: Answer to judge.
        same: Whether a person holds the two for equal.
    """

    category: str
    gold: str
    prediction: str
    same: bool


def read_pairs(path: Path = LABELLED) -> Iterator[Pair]:
    """Read the labelled pairs of a file; the first lines of labelled.txt say how they are written.

    Raises:
        ValueError: If a line has another label than `same` or `differ`.
    """
    category = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            category = line[1:-1]
            continue
        label, gold, prediction = line.split(" ## ")
        if label not in ("same", "differ"):
            raise ValueError(f"{path}, line {number}: the label is {label!r}; write `same` or `differ`")
        yield Pair(category, gold, prediction, label == "same")
