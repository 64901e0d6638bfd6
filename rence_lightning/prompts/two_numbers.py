"""Sums and products of two small numbers: problems that a small language model solves sometimes."""

import random

from rence_lightning.parts import Problem
from rence_lightning.prompts.problems import ProblemSource, check_split

SUMMANDS = range(1, 21)
FACTORS = range(2, 13)
HELD_OUT = 200
"""Smallest number of held-out problems; a problem and its mirror image are held out together, hence a few more."""

# Another seed gives another split, with which published results cannot be compared.
_SEED = 20_007


def _splits() -> dict[str, list[tuple[int, str, int]]]:
    """All pairs, divided so that a pair and its mirror image are in the same split, and then shuffled."""
    rng = random.Random(_SEED)
    ascending = [(a, "+", b) for a in SUMMANDS for b in SUMMANDS if a <= b]
    ascending += [(a, "*", b) for a in FACTORS for b in FACTORS if a <= b]
    rng.shuffle(ascending)
    splits: dict[str, list[tuple[int, str, int]]] = {"train": [], "test": []}
    for a, operator, b in ascending:
        split = splits["test" if len(splits["test"]) < HELD_OUT else "train"]
        split += dict.fromkeys(((a, operator, b), (b, operator, a)))
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
        check_split("TwoNumberProblems", split, count, {name: len(pairs) for name, pairs in _splits().items()})
        self.split, self.count = split, count

    def load(self) -> list[Problem]:
        """Generates the split, which takes a millisecond and needs no file."""
        problems = []
        for a, operator, b in _splits()[self.split][: self.count]:
            text, answer = f"{a} {operator} {b}", a + b if operator == "+" else a * b
            problems.append(Problem(f"two_numbers/{text}", text, str(answer), "two_numbers", {"operator": operator}))
        return problems
