"""The process in which reasoning-gym generates problems: it reads a request on stdin and writes the rows on stdout.

`GymProblems` starts it as `python -m rence_lightning.prompts.gym_generation`, with a fixed hash seed: some generators
iterate over sets of text, and others use the global generators of random numbers. In a process of its own, each gives
the same problems everywhere, and the random numbers of the run do not depend on them.
"""

import json
import os
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.json_values import to_json
from rence_lightning.text import did_you_mean, share_of

HELD_OUT_SHARE = 0.2
"""Share of all questions that belong to the test split."""

PATIENCE = 1000
"""Number of draws in a row without a new question after which a generator is exhausted."""

NOT_OFFERED = {
    "bitwise_arithmetic": "its score_answer executes the text of the problem, which grading does not allow",
    "composite": "it mixes other tasks; give these to `tasks`, with their weights",
    "game_of_life_halting": "its score_answer takes every text for right",
}
"""Generators of reasoning-gym that cannot be used, and why."""

_CHUNK = 4096
_SETTINGS_OF_THE_SOURCE = {"seed", "size"}


def split_of(question: str) -> str:
    """The split to which a question belongs: a function of its text alone, so that no split has one of another's."""
    return "test" if share_of(" ".join(question.split())) < HELD_OUT_SHARE else "train"


def _dataset(task: str, settings: Mapping[str, Any], seed: int) -> Any:
    """The data set of a generator.

    Raises:
        UserError: The generator or a setting does not exist, or the generator refuses a value.
    """
    from reasoning_gym.factory import DATASETS, create_dataset

    offered = DATASETS.keys() - NOT_OFFERED.keys()
    if task not in offered:
        why = NOT_OFFERED.get(task, f"no such generator{did_you_mean(task, sorted(offered))}")
        raise UserError(f"GymProblems: {task}: {why}")
    known = {field.name for field in fields(DATASETS[task][1])} - _SETTINGS_OF_THE_SOURCE
    for name in settings:
        if name in _SETTINGS_OF_THE_SOURCE:
            raise UserError(f"GymProblems: {task}: {name} is an argument of GymProblems, not a setting of the task")
        if name not in known:
            hint = did_you_mean(name, known) or f"; choose from: {', '.join(sorted(known))}"
            raise UserError(f"GymProblems: {task} has no setting {name!r}{hint}")
    try:
        return create_dataset(task, **settings, seed=seed, size=_CHUNK)
    except Exception as error:  # generators check their settings by assertions, and by whatever fails first
        raise UserError(f"GymProblems: {task} refuses its settings: {error or type(error).__name__}") from error


def _draws(task: str, settings: Mapping[str, Any], split: str, seed: int) -> Iterator[dict[str, Any]]:
    """Entries of a generator without end, from the seeds of one split."""
    seeds = random.Random(f"{task}/{split}/{seed}")  # neighbouring seeds of reasoning-gym share all entries but one
    while True:
        chunk_seed = seeds.randrange(2**31)
        _seed_global_generators(chunk_seed)
        dataset = _dataset(task, settings, chunk_seed)
        for index in range(_CHUNK):
            yield dataset[index]


def _seed_global_generators(seed: int) -> None:
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)


def generate(task: str, settings: Mapping[str, Any], split: str, seed: int, size: int) -> list[dict[str, Any]]:
    """Different entries of a generator, all of one split.

    Raises:
        UserError: The generator has too few different questions, or refuses its settings.
    """
    entries: dict[str, dict[str, Any]] = {}
    fruitless = 0
    for entry in _draws(task, settings, split, seed):
        question = entry["question"]
        if split_of(question) == split and question not in entries:
            entries[question] = entry
            fruitless = 0
        else:
            fruitless += 1
        if len(entries) == size:
            break
        if fruitless == PATIENCE:
            raise UserError(
                f"GymProblems: {task} has only about {len(entries)} different questions in the {split} split with "
                f"these settings, and {size} are wanted; ask for fewer, or widen its settings"
            )
    return [
        {"question": question, "answer": entry["answer"], "entry": to_json(entry)}
        for question, entry in entries.items()
    ]


def main() -> None:
    """Answers the request on stdin: `{"rows": {TASK: [...]}}`, or `{"error": MESSAGE}` for an error of the user."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # generators print
    request = json.load(sys.stdin)
    split, seed = request["split"], request["seed"]
    try:
        rows = {
            task: generate(task, each["settings"], split, seed, each["size"]) for task, each in request["tasks"].items()
        }
    except UserError as error:
        reply: dict[str, Any] = {"error": str(error)}
    else:
        reply = {"rows": rows}
    with replies:
        json.dump(reply, replies)


if __name__ == "__main__":
    main()
