"""Sums and products: their answers are right, the splits are fixed, and no held-out problem is trained on."""

import hashlib
import random
import re

import pytest

from rence_lightning.errors import UserError
from rence_lightning.prompts import TwoNumberProblems

# Of all problems of a split. If these change, every number published about SmolLM2 is void.
DIGESTS = {
    "train": "de095df2ae74cb3b10f1bcea26f435d0ed6716937cc8d159a096f68ba5dd69ac",
    "test": "40c3563354f0cae86f4828b405ea28ab39b72e88f27cbe48fded706919b35634",
}


def operands(problem: str) -> tuple[int, str, int]:
    match = re.fullmatch(r"([1-9][0-9]?) ([+*]) ([1-9][0-9]?)", problem)
    assert match is not None, problem
    return int(match[1]), match[2], int(match[3])


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_right(split: str) -> None:
    for problem in TwoNumberProblems(split).load():
        left, operator, right = operands(problem.problem)
        assert int(problem.answer) == {"+": left + right, "*": left * right}[operator]
        assert problem.fields == {"operator": operator}


def test_no_problem_is_held_out_whose_mirror_image_is_trained_on() -> None:
    def keys(split: str) -> set[tuple[int, str, int]]:
        triples = [operands(problem.problem) for problem in TwoNumberProblems(split).load()]
        return {(min(a, b), operator, max(a, b)) for a, operator, b in triples}

    assert keys("train").isdisjoint(keys("test"))
    every = {(a, "+", b) for a in range(1, 21) for b in range(a, 21)} | {
        (a, "*", b) for a in range(2, 13) for b in range(a, 13)
    }
    assert keys("train") | keys("test") == every


def test_problems_and_ids_are_unique_and_at_least_two_hundred_are_held_out() -> None:
    problems = [problem for split in DIGESTS for problem in TwoNumberProblems(split).load()]
    assert len(problems) == len({problem.id for problem in problems}) == len({p.problem for p in problems}) == 521
    assert len(TwoNumberProblems("test").load()) >= 200


@pytest.mark.parametrize("split", DIGESTS)
def test_a_split_never_changes(split: str) -> None:
    random.seed(1)
    problems = TwoNumberProblems(split).load()
    random.seed(2)
    before = random.getstate()
    assert TwoNumberProblems(split).load() == problems
    assert random.getstate() == before
    text = "\n".join(problem.problem for problem in problems)
    assert hashlib.sha256(text.encode()).hexdigest() == DIGESTS[split]


def test_count_takes_the_first_problems_and_bad_arguments_are_refused() -> None:
    assert TwoNumberProblems("test", count=7).load() == TwoNumberProblems("test").load()[:7]
    with pytest.raises(UserError, match="no split 'dev'; choose one of: train, test"):
        TwoNumberProblems("dev")
    with pytest.raises(UserError, match="from 1 to 201, the size of the test split"):
        TwoNumberProblems("test", count=202)
