"""The last number of a response is read as a reader would, and graded honestly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.parts import Problem
from rence_lightning.rewards import LastNumberReward, Response, Score
from rence_lightning.rewards.last_number import last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 + 19 = 24.", "24"),
        ("It is 24, not 22", "22"),
        ("9-4", "4"),
        ("the result is -4", "-4"),
        ("1,024", "1024"),
        ("1,2,3", "3"),
        ("24.0", "24"),
        ("24.50", "24.5"),
        ("-0", "0"),
        ("twenty-four", None),
        ("٢٤", None),
    ],
)
def test_the_last_number_is_read(text: str, number: str | None) -> None:
    assert last_number(text) == number


@given(st.integers(), st.text(st.characters(exclude_categories=["N"], exclude_characters="-.,"), max_size=20))
def test_an_integer_is_found_whatever_words_surround_it(value: int, words: str) -> None:
    assert last_number(f"7 {words} {value} {words}") == str(value)


@given(st.text(alphabet="0123456789-.,+ a\n", max_size=60))
def test_what_is_found_is_a_number_that_is_read_alike_again(text: str) -> None:
    number = last_number(text)
    assert (number is None) == (not any(character.isdigit() for character in text))
    assert number is None or last_number(number) == number


def score(text: str, answer: str = "24", **settings: float) -> Score:
    (judged,) = LastNumberReward(**settings).score([Response(Problem("1", "5 + 19", answer), text)])
    return judged


def test_right_wrong_and_no_number_earn_less_and_less() -> None:
    assert score("5 + 19 = 24") == Score(1.0, True, "24")
    assert score("24 = 5 + 19") == Score(0.1, False, "19"), "repeating the problem earns no more than a wrong number"
    assert score("I do not know") == Score(0.0, False)
    assert score("1,000", answer="1000").correct
    assert score("25", wrong=0.3).reward == 0.3


@pytest.mark.parametrize("settings", [{"wrong": 1.0}, {"none": 1.0}, {"correct": 2.0}, {"wrong": -0.1}])
def test_rewards_that_would_not_favour_the_right_number_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be greater than"):
        LastNumberReward(**settings)


def test_a_huge_response_is_read_in_bounded_time() -> None:
    assert last_number("1," * 500_000 + "1" * 500_000) is not None
    assert last_number("-" * 1_000_000) is None
