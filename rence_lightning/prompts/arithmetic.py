r"""Generated problems: chains of small sums, which are the demo task, and sums and products of two numbers.

`76+4+9+8=?` has the answer `97`, which a policy is expected to compute step by step:
`76+4=80,80+9=89,89+8=97,\boxed{97}`.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rence_lightning.errors import UserError
from rence_lightning.parts import Problem
from rence_lightning.prompts.problems import ProblemSource

SPLIT_SIZES = {"train": 2000, "validation": 500, "test": 500}

# Other seeds give other data sets, with which published results cannot be compared.
_SPLIT_SEEDS = {"train": 20_001, "validation": 20_003, "test": 20_002}
_PAIRS_SEED = 20_007

SUMMANDS, FACTORS = range(1, 21), range(2, 13)
HELD_OUT = 200
"""Smallest number of held-out pairs of numbers; a pair and its mirror image are held out together, hence a few more."""


@dataclass(frozen=True)
class Chain:
    """A start value, and the signed digits that are added to it one by one, none of them 0."""

    start: int
    steps: tuple[int, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """The running value: `start`, then the value after each step (one value more than steps)."""
        return tuple(accumulate(self.steps, initial=self.start))

    @property
    def problem(self) -> str:
        """The question, such as `76+4-9=?`."""
        return f"{self.start}{''.join(f'{step:+d}' for step in self.steps)}=?"

    @property
    def answer(self) -> str:
        """The final value."""
        return str(self.values[-1])

    @property
    def solution(self) -> str:
        r"""The worked response, such as `76+4=80,80-9=71,\boxed{71}`."""
        return worked(self.values, self.steps)


def worked(values: Sequence[int], steps: Sequence[int], box: bool = True) -> str:
    """Writes out a calculation, right or wrong: `values` are the start and the stated result of each of the `steps`.
    With `box`, the last value follows in a box."""
    parts = [f"{a}{step:+d}={b}" for a, step, b in zip(values[:-1], steps, values[1:], strict=True)]
    return ",".join([*parts, boxed(values[-1])] if box else parts)


def boxed(value: int) -> str:
    r"""`\boxed{value}`."""
    return rf"\boxed{{{value}}}"


def draw_chain(rng: random.Random) -> Chain:
    """Draws a chain: a start of 10 to 99 and 1 to 4 steps of plus or minus 1 to 9, all uniform.

    No running value is negative: a step that would lead below zero is drawn again. The minus sign is thus only an
    operation, so that half a million parameters can learn the task.
    """
    value = start = rng.randrange(10, 100)
    steps: list[int] = []
    for _ in range(rng.randrange(1, 5)):
        step = -value - 1
        while value + step < 0:
            step = rng.choice((-1, 1)) * rng.randrange(1, 10)
        steps.append(step)
        value += step
    return Chain(start, tuple(steps))


def draw_new_chain(rng: random.Random, taken: Collection[str]) -> Chain:
    """Draws chains until the problem of one is not in `taken`."""
    while (chain := draw_chain(rng)).problem in taken:
        pass
    return chain


def chains_of(split: str) -> list[Chain]:
    """The chains of a split: none is in the test split, nor a validation chain among those for training."""
    others = {"test": (), "train": ("test",), "validation": ("test", "train")}[split]
    taken = {chain.problem for other in others for chain in chains_of(other)}
    rng, chains = random.Random(_SPLIT_SEEDS[split]), []
    for _ in range(SPLIT_SIZES[split]):
        chains.append(draw_new_chain(rng, taken))
        taken.add(chains[-1].problem)
    return chains


class ArithmeticProblems(ProblemSource):
    """Chains such as `76+4+9+8=?`: a start of 10-99 and 1-4 steps of plus or minus one digit.

    The data sets are fixed and the same in every process: 2,000 problems for training, 500 for the choice of settings
    and 500 held out, all different. The warm-up of the embedded policy excluded the test split alone.

    Args:
        split: Name of the split: `train` (2,000 problems), `validation` (500 others) or `test` (another 500).
        count: Number of problems to take from the start of the split. None: all.
    """

    def __init__(self, split: str = "train", count: int | None = None) -> None:
        _check_split("ArithmeticProblems", split, count, SPLIT_SIZES)
        self.split, self.count = split, count

    def load(self) -> list[Problem]:
        """Generates the split, which takes a few milliseconds and needs no file."""
        return [
            Problem(
                f"arithmetic/{self.split}/{number}", chain.problem, chain.answer, "arithmetic", solution=chain.solution
            )
            for number, chain in enumerate(chains_of(self.split)[: self.count], start=1)
        ]


class TwoNumberProblems(ProblemSource):
    """Sums such as `7 + 12`, of numbers from 1 to 20, and products such as `4 * 9`, of numbers from 2 to 12.

    There are 400 sums and 121 products, of which a small language model solves some. The splits are fixed and the same
    in every process. Where `7 + 12` is held out, `12 + 7` is too. The field `operator` of a problem is `+` or `*`.

    Args:
        split: Name of the split: `train`, or `test` for the problems that are held out.
        count: Number of problems to take from the start of the split. None: all.
    """

    def __init__(self, split: str = "train", count: int | None = None) -> None:
        _check_split("TwoNumberProblems", split, count, {name: len(pairs) for name, pairs in _pairs().items()})
        self.split, self.count = split, count

    def load(self) -> list[Problem]:
        """Generates the split, which takes a millisecond and needs no file."""
        problems = []
        for a, operator, b in _pairs()[self.split][: self.count]:
            text, answer = f"{a} {operator} {b}", a + b if operator == "+" else a * b
            identity, fields, solution = f"two_numbers/{text}", {"operator": operator}, f"{text} = {answer}"
            problems.append(Problem(identity, text, str(answer), "two_numbers", fields, solution=solution))
        return problems


def _pairs() -> dict[str, list[tuple[int, str, int]]]:
    """All pairs, divided so that a pair and its mirror image are in the same split, and then shuffled."""
    rng = random.Random(_PAIRS_SEED)
    ascending = [(a, sign, b) for sign, r in (("+", SUMMANDS), ("*", FACTORS)) for a in r for b in r if a <= b]
    rng.shuffle(ascending)
    splits: dict[str, list[tuple[int, str, int]]] = {"train": [], "test": []}
    for a, operator, b in ascending:
        split = splits["test" if len(splits["test"]) < HELD_OUT else "train"]
        split += dict.fromkeys(((a, operator, b), (b, operator, a)))
    for pairs in splits.values():
        rng.shuffle(pairs)
    return splits


def _check_split(source: str, split: str, count: int | None, sizes: Mapping[str, int]) -> None:
    """Raises a `UserError` where a source lacks the split, or the split so many problems."""
    if split not in sizes:
        raise UserError(f"{source}: no split {split!r}; choose one of: {', '.join(sizes)}")
    if count is not None and not 1 <= count <= sizes[split]:
        size = f"{sizes[split]}, the size of the {split} split, or null for all"
        raise UserError(f"{source}: count must be from 1 to {size}, not {count}")
