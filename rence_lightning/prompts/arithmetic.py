r"""The demo task: chains of small additions and subtractions, which are generated, not downloaded.

`76+4+9+8=?` has the answer `97`, which a policy is expected to compute step by step:
`76+4=80,80+9=89,89+8=97,\boxed{97}`.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rence_lightning.parts import Problem
from rence_lightning.prompts.problems import ProblemSource, check_split

SPLIT_SIZES = {"train": 2000, "validation": 500, "test": 500}

# Seeds of the data sets. Another seed gives another data set, with which published results cannot be compared.
_SPLIT_SEEDS = {"train": 20_001, "validation": 20_003, "test": 20_002}


@dataclass(frozen=True)
class Chain:
    """A start value and the numbers that are added to it, step by step.

    Attributes:
        start: First number of the chain.
        steps: Signed digits that are added, none of them 0.
    """

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
    r"""Writes out a calculation, right or wrong, such as `76+4=80,80-9=71,\boxed{71}`.

    Args:
        values: Start value, then the stated result of each step (one value more than steps).
        steps: Numbers that are added, one at each step.
        box: Whether the last value follows in a box.
    """
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
    chain = draw_chain(rng)
    while chain.problem in taken:
        chain = draw_chain(rng)
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
        check_split("ArithmeticProblems", split, count, SPLIT_SIZES)
        self.split, self.count = split, count

    def load(self) -> list[Problem]:
        """Generates the split, which takes a few milliseconds and needs no file."""
        return [
            Problem(f"arithmetic/{self.split}/{number}", chain.problem, chain.answer, "arithmetic")
            for number, chain in enumerate(chains_of(self.split)[: self.count], start=1)
        ]
