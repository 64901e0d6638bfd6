"""Sums and products of two small numbers: problems that a small language model solves sometimes."""

import random
from dataclasses import dataclass

from rence_lightning.errors import UserError
from rence_lightning.problem import Problem
from rence_lightning.prompts.problems import ProblemSource

SUMMANDS = range(1, 21)
FACTORS = range(2, 13)
HELD_OUT = 200
"""Smallest number of held-out problems; a problem and its mirror image are held out together, hence a few more."""

# Another seed gives another split, with which published results cannot be compared.
_SEED = 20_007


@dataclass(frozen=True)
class Pair:
    """Two numbers that are added or multiplied.

    Attributes:
        left: First number.
        operator: `+` or `*`.
        right: Second number.
    """

    left: int
    operator: str
    right: int

    @property
    def problem(self) -> str:
        """The text, such as `7 + 12`."""
        return f"{self.left} {self.operator} {self.right}"

    @property
    def answer(self) -> str:
        """The sum or the product."""
        return str(self.left + self.right if self.operator == "+" else self.left * self.right)

    @property
    def mirrored(self) -> "Pair":
        """The same numbers in the other order, which has the same answer."""
        return Pair(self.right, self.operator, self.left)


def _splits() -> dict[str, list[Pair]]:
    """All pairs, divided so that a pair and its mirror image are in the same split, and then shuffled."""
    rng = random.Random(_SEED)
    ascending = [Pair(a, "+", b) for a in SUMMANDS for b in SUMMANDS if a <= b]
    ascending += [Pair(a, "*", b) for a in FACTORS for b in FACTORS if a <= b]
    rng.shuffle(ascending)
    splits: dict[str, list[Pair]] = {"train": [], "test": []}
    for pair in ascending:
        split = splits["test" if len(splits["test"]) < HELD_OUT else "train"]
        split += dict.fromkeys((pair, pair.mirrored))
    for pairs in splits.values():
        rng.shuffle(pairs)
    return splits


class TwoNumberProblems(ProblemSource):
    """Sums such as `7 + 12`, of numbers from 1 to 20, and products such as `4 * 9`, of numbers from 2 to 12.

    There are 400 sums and 121 products. The splits are fixed and the same in every process. Where `7 + 12` is held out,
    `12 + 7` is too. The field `operator` of a problem is `+` or `*`.

    Args:
        split: Name of the split: `train`, or `test` for the problems that are held out.
        count: Number of problems to take from the start of the split. None: all.
    """

    def __init__(self, split: str = "train", count: int | None = None) -> None:
        splits = _splits()
        if split not in splits:
            raise UserError(f"TwoNumberProblems: no split {split!r}; choose one of: {', '.join(splits)}")
        if count is not None and not 1 <= count <= len(splits[split]):
            raise UserError(
                f"TwoNumberProblems: count must be from 1 to {len(splits[split])}, the size of the {split} split, or "
                f"null for all, not {count}"
            )
        self.split = split
        self.count = count

    def load(self) -> list[Problem]:
        """Generates the split, which takes a millisecond and needs no file."""
        return [
            Problem(
                f"two_numbers/{pair.problem}", pair.problem, pair.answer, "two_numbers", {"operator": pair.operator}
            )
            for pair in _splits()[self.split][: self.count]
        ]
