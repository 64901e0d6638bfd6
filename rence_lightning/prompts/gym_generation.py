"""The process in which reasoning-gym generates problems: a request as JSON on stdin, and rows as JSON on stdout.

Some generators iterate over sets of text, and others use the global generators of random numbers. In a process of its
own with a fixed hash seed, each gives the same problems everywhere, and leaves the random numbers of the run alone.
"""

import contextlib
import json
import random
import sys
from collections.abc import Iterator
from typing import Any

from rence_lightning.errors import UserError, did_you_mean
from rence_lightning.parts import share_of

HELD_OUT_SHARE = 0.2  # of all questions, for the test split
PATIENCE = 1000  # draws in a row without a new question, after which a generator is exhausted

NOT_OFFERED = {
    "bitwise_arithmetic": "its score_answer executes the text of the problem, which grading does not allow",
    "composite": "it mixes other tasks; give these to `tasks`, with their weights",
    "game_of_life_halting": "its score_answer takes every text for right",
}
"""Generators of reasoning-gym that cannot be used, and why."""

_CHUNK = 4096


def split_of(question: str) -> str:
    """The split to which a question belongs: a function of its text alone, so that no split has one of another's."""
    return "test" if share_of(" ".join(question.split())) < HELD_OUT_SHARE else "train"


def generate(task: str, settings: dict[str, Any], split: str, seed: int, size: int) -> Iterator[dict[str, Any]]:
    """So many entries of a generator with different questions, all of one split; else a `UserError`."""
    seen: set[str] = set()
    fruitless = 0
    draws = _draws(task, settings, random.Random(f"{task}/{split}/{seed}"))
    while len(seen) < size:
        entry = next(draws)
        if (question := entry["question"]) not in seen and split_of(question) == split:
            seen.add(question)
            fruitless = 0
            yield entry
        elif (fruitless := fruitless + 1) == PATIENCE:
            few = f"only about {len(seen)} different questions in the {split} split with these settings"
            raise UserError(f"{task} has {few}, and {size} are wanted; ask for fewer, or widen its settings")


def _draws(task: str, settings: dict[str, Any], seeds: random.Random) -> Iterator[dict[str, Any]]:
    """Entries without end. Neighbouring seeds of reasoning-gym share all entries but one, hence drawn ones."""
    import numpy
    from reasoning_gym.factory import DATASETS, create_dataset

    if task in NOT_OFFERED or task not in DATASETS:
        hint = did_you_mean(task, DATASETS.keys() - NOT_OFFERED.keys())
        raise UserError(f"{task}: {NOT_OFFERED.get(task, f'no such generator{hint}')}")
    known = DATASETS[task][1].__dataclass_fields__.keys() - {"seed", "size"}
    for name in settings.keys() - known:
        why = f"{did_you_mean(name, known)}; choose from: {', '.join(sorted(known))}"
        raise UserError(f"{task} has no setting {name!r}{why}")
    while True:
        seed = seeds.randrange(2**31)
        random.seed(seed)
        numpy.random.seed(seed)
        try:
            data_set = create_dataset(task, **settings, seed=seed, size=_CHUNK)
        except Exception as error:  # generators check their settings by assertions, and by whatever fails first
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{task} refuses its settings: {reason}") from error
        yield from (data_set[index] for index in range(_CHUNK))


def main() -> None:
    """Answers a request, the arguments of `generate` for each task, with rows of task, question, answer and entry."""
    import numpy

    numpy.set_printoptions(legacy="1.25")  # a number of NumPy is then written like one of Python
    try:
        with contextlib.redirect_stdout(sys.stderr):  # generators print
            rows = [
                (task, entry["question"], entry["answer"], repr(entry))
                for task, *arguments in json.load(sys.stdin)
                for entry in generate(task, *arguments)
            ]
    except UserError as error:
        sys.exit(str(error))
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
