"""The generated problems: their answers are right, the splits are fixed, and no held-out problem is trained on."""

import hashlib
import random
import re

import pytest

from rence_lightning.errors import UserError
from rence_lightning.prompts import ArithmeticProblems, ProblemSource, TwoNumberProblems
from rence_lightning.prompts.arithmetic import Chain, draw_chain, draw_new_chain, worked

# Of all problems and answers of a split. If these change, every number published about the tasks is void.
CHAINS = {
    "train": (2000, "5727468657aa0ea376c1696858b7c0857e2ed3613001effac288430a860ddd7e"),
    "validation": (500, "b5acceaf8d8ebb8a5824343418edeba7943afb7ca20c8e9aa005e5d854b4c016"),
    "test": (500, "974684caaea4e4d59857d37b30678c65202568daaa981d4034db9f261218e3dd"),
}
PAIRS = {
    "train": "de095df2ae74cb3b10f1bcea26f435d0ed6716937cc8d159a096f68ba5dd69ac",
    "test": "40c3563354f0cae86f4828b405ea28ab39b72e88f27cbe48fded706919b35634",
}


@pytest.mark.parametrize("split", CHAINS)
def test_chains_are_right_never_negative_and_the_same_everywhere(split: str) -> None:
    before = random.getstate()
    problems = ArithmeticProblems(split).load()
    assert random.getstate() == before
    size, digest = CHAINS[split]
    assert len(problems) == size
    text = "\n".join(f"{problem.problem} {problem.answer}" for problem in problems)
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    steps = []
    for problem in problems:
        assert re.fullmatch(r"[1-9][0-9]([+-][1-9]){1,4}=\?", problem.problem)
        terms = [int(term) for term in re.findall(r"[+-]?\d+", problem.problem)]
        assert problem.answer == str(sum(terms))
        assert min(sum(terms[: end + 1]) for end in range(len(terms))) >= 0
        steps.append(len(terms) - 1)
    assert min(steps.count(number) for number in (1, 2, 3, 4)) > 80
    assert [problem.id for problem in problems[:2]] == [f"arithmetic/{split}/1", f"arithmetic/{split}/2"]
    assert ArithmeticProblems(split, count=7).load() == problems[:7]
    others = (other for name in CHAINS if name != split for other in ArithmeticProblems(name).load())
    assert {each.problem for each in problems}.isdisjoint(other.problem for other in others)
    assert len({each.problem for each in problems}) == size


def test_sums_and_products_are_right_the_same_everywhere_and_held_out_with_their_mirror_images() -> None:
    keys: dict[str, set[tuple[int, str, int]]] = {"train": set(), "test": set()}
    for split, found in keys.items():
        problems = TwoNumberProblems(split).load()
        for problem in problems:
            match = re.fullmatch(r"([1-9][0-9]?) ([+*]) ([1-9][0-9]?)", problem.problem)
            assert match is not None
            left, operator, right = int(match[1]), match[2], int(match[3])
            assert int(problem.answer) == {"+": left + right, "*": left * right}[operator]
            assert (problem.fields, problem.id) == ({"operator": operator}, f"two_numbers/{problem.problem}")
            found.add((min(left, right), operator, max(left, right)))
        assert hashlib.sha256("\n".join(p.problem for p in problems).encode()).hexdigest() == PAIRS[split]
    assert not keys["train"] & keys["test"]
    every = {(a, "+", b) for a in range(1, 21) for b in range(a, 21)}
    every |= {(a, "*", b) for a in range(2, 13) for b in range(a, 13)}
    assert keys["train"] | keys["test"] == every
    assert len(TwoNumberProblems("test").load()) >= 200


@pytest.mark.parametrize(
    ("source", "split", "count", "message"),
    [
        (ArithmeticProblems, "dev", None, "no split 'dev'; choose one of: train, validation, test"),
        (ArithmeticProblems, "test", 501, "count must be from 1 to 500.*not 501"),
        (TwoNumberProblems, "validation", None, "TwoNumberProblems: no split 'validation'; choose one of: train, test"),
        (TwoNumberProblems, "test", 1000, "the size of the test split.*not 1000"),
    ],
)
def test_an_unknown_split_and_an_impossible_count_are_refused(
    source: type[ProblemSource], split: str, count: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        source(split, count)  # type: ignore[call-arg]


def test_a_chain_writes_its_problem_and_solution_and_work_can_be_wrong() -> None:
    chain = Chain(76, (4, -9, 8))
    assert (chain.problem, chain.answer) == ("76+4-9+8=?", "79")
    assert chain.solution == r"76+4=80,80-9=71,71+8=79,\boxed{79}"
    assert worked([76, 81, 72], [4, -9]) == r"76+4=81,81-9=72,\boxed{72}"
    assert worked([76, 80], [4], box=False) == "76+4=80"
    assert worked([76], []) == r"\boxed{76}"


def test_chains_stay_above_zero_and_taken_problems_are_drawn_again() -> None:
    rng = random.Random(0)
    assert min(min(draw_chain(rng).values) for _ in range(20_000)) == 0
    first = draw_chain(random.Random(5))
    assert draw_new_chain(random.Random(5), {first.problem}).problem != first.problem
