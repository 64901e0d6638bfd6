"""The rule that makes solutions of word problems."""

import pytest

from benchmarks.word_problems import solution


@pytest.mark.parametrize(
    ("problem", "answer", "calculation"),
    [
        ("70 seashells, 27 left", "43", "70 - 27"),
        ("gave 27 of 70", "43", "70 - 27"),
        ("1,200 and 3 more", "1203", "1200 + 3"),
        ("5 cups for 2 loaves", "2.5", "5 / 2"),
        ("2 and 2", "4", None),  # a sum and a product
        ("2 of 3 and 4", "6", None),
        ("2 and 3", "7", None),
        ("0 and 3", "3", None),  # a sum and a difference
    ],
)
def test_a_solution_is_the_only_calculation_that_gives_the_answer(
    problem: str, answer: str, calculation: str | None
) -> None:
    expected = None if calculation is None else f"{calculation} = {answer}\n\\boxed{{{answer}}}"
    assert solution(problem, answer) == expected
