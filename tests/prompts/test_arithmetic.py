"""The demo task: its problems are right, fixed, and apart from each other."""

import hashlib
import random
import re

import pytest

from rence_lightning.errors import UserError
from rence_lightning.prompts.arithmetic import ArithmeticProblems, Chain, draw_chain, draw_new_chain, worked

# Of all problems and answers of a split. If these change, every number published about the demo task is void.
DIGESTS = {
    "train": "5727468657aa0ea376c1696858b7c0857e2ed3613001effac288430a860ddd7e",
    "validation": "b5acceaf8d8ebb8a5824343418edeba7943afb7ca20c8e9aa005e5d854b4c016",
    "test": "974684caaea4e4d59857d37b30678c65202568daaa981d4034db9f261218e3dd",
}


def running_values(problem: str) -> list[int]:
    """The values along a chain, read off its text by another road than the code under test."""
    assert re.fullmatch(r"[1-9][0-9]([+-][1-9]){1,4}=\?", problem)
    values = [0]
    for term in re.findall(r"[+-]?\d+", problem):
        values.append(values[-1] + int(term))
    return values[1:]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_answers_are_right_and_no_running_value_is_negative(split: str) -> None:
    for problem in ArithmeticProblems(split).load():
        values = running_values(problem.problem)
        assert problem.answer == str(values[-1])
        assert min(values) >= 0


@pytest.mark.parametrize(("split", "size"), [("train", 2000), ("validation", 500), ("test", 500)])
def test_a_split_never_changes_and_is_the_same_everywhere(split: str, size: int) -> None:
    random.seed(1)
    problems = ArithmeticProblems(split).load()
    random.seed(2)
    assert ArithmeticProblems(split).load() == problems
    assert len(problems) == size
    text = "\n".join(f"{problem.problem} {problem.answer}" for problem in problems)
    assert hashlib.sha256(text.encode()).hexdigest() == DIGESTS[split]


def test_loading_leaves_the_global_generator_alone() -> None:
    before = random.getstate()
    ArithmeticProblems().load()
    assert random.getstate() == before


def test_problems_and_ids_are_unique_and_the_splits_disjoint() -> None:
    problems = [problem for split in DIGESTS for problem in ArithmeticProblems(split).load()]
    assert len({problem.id for problem in problems}) == len({problem.problem for problem in problems}) == 3000


def test_ids_count_from_one_and_name_the_split() -> None:
    problems = ArithmeticProblems("train").load()
    assert [problem.id for problem in problems[:2]] == ["arithmetic/train/1", "arithmetic/train/2"]
    assert problems[16].id == "arithmetic/train/17"
    assert {problem.source for problem in problems} == {"arithmetic"}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_number_of_steps_occurs(split: str) -> None:
    steps = [len(running_values(problem.problem)) - 1 for problem in ArithmeticProblems(split).load()]
    assert set(steps) == {1, 2, 3, 4}
    assert min(steps.count(number) for number in (1, 2, 3, 4)) > 80


def test_count_takes_the_first_problems() -> None:
    assert ArithmeticProblems("test", count=7).load() == ArithmeticProblems("test").load()[:7]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"no split 'dev'; choose one of: train, validation, test"):
        ArithmeticProblems("dev")


@pytest.mark.parametrize(
    ("split", "count"), [("train", 0), ("train", 2001), ("validation", 501), ("test", 501), ("test", -1)]
)
def test_an_impossible_count_is_refused(split: str, count: int) -> None:
    with pytest.raises(UserError, match=rf"the size of the {split} split.*not {count}"):
        ArithmeticProblems(split, count)


def test_a_chain_writes_its_problem_and_solution() -> None:
    chain = Chain(76, (4, -9, 8))
    assert chain.problem == "76+4-9+8=?"
    assert chain.answer == "79"
    assert chain.solution == r"76+4=80,80-9=71,71+8=79,\boxed{79}"


def test_work_can_be_wrong_and_without_a_box() -> None:
    assert worked([76, 81, 72], [4, -9]) == r"76+4=81,81-9=72,\boxed{72}"
    assert worked([76, 80], [4], box=False) == "76+4=80"
    assert worked([76], []) == r"\boxed{76}"


def test_chains_that_could_go_below_zero_do_not() -> None:
    rng = random.Random(0)
    chains = [draw_chain(rng) for _ in range(20_000)]
    assert min(min(chain.values) for chain in chains) == 0


def test_taken_problems_are_drawn_again() -> None:
    first = draw_chain(random.Random(5))
    other = draw_new_chain(random.Random(5), {first.problem})
    assert other.problem != first.problem
