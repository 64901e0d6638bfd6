"""The environments that ship: what they reply to a turn."""

import operator
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.environments import Calculator, Guessing, TurnLimits
from rence_lightning.errors import UserError
from rence_lightning.prompts import Problem

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
expressions = st.recursive(
    st.integers(0, 10**6).map(lambda number: (str(number), Fraction(number))),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner)
        .filter(lambda each: each[1] != "/" or each[2][1] != 0)
        .map(lambda each: (f"({each[0][0]}{each[1]}{each[2][0]})", OPERATIONS[each[1]](each[0][1], each[2][1])))
    ),
    max_leaves=5,
)


@given(expressions)
def test_a_calculator_computes(expression: tuple[str, Fraction]) -> None:
    text, value = expression
    expected = str(value) if value.denominator == 1 else f"{float(value):.6g}"
    assert Calculator().reply(f"so <<{text}>>") == (expected if len(text) <= 100 else "error")
    assert Calculator("", "=").reply(f"x,{text}=") == (expected if len(text) <= 100 else "error")


@pytest.mark.parametrize(
    ("turn", "reply"),
    [
        ("the answer is 80", None),
        ("<<1>> and <<2*3>>", "6"),
        ("<<1.5+1>>", "2.5"),
        ("<<1/3>>", "0.333333"),
        ("no call >>", ""),
        ("<<>>", "error"),
        ("<<1/0>>", "error"),
        ("<<2**9>>", "error"),
        ("<<__import__('os').getcwd()>>", "error"),
        ("<<True>>", "error"),
        ("<<1,2>>", "error"),
        ("<<" + "(" * 10_000 + ">>", "error"),
        ("<<" + "9" * 101 + ">>", "error"),
        ("<<08>>", "error"),
        ("<<" + "*".join(["1e308"] * 16) + ">>", "error"),
        ("<<1e308*1e308/7>>", "error"),
        ("<<1or 2>>", "error"),
    ],
)
def test_anything_else_is_an_error_or_no_call(turn: str, reply: str | None) -> None:
    assert Calculator().reply(turn) == reply


@pytest.mark.parametrize(("turn", "reply"), [("76+4=", "80"), ("80,80-9=", "71"), ("x=", ""), ("=", ""), ("end", None)])
def test_an_equals_sign_may_be_the_call(turn: str, reply: str | None) -> None:
    assert Calculator("", "=").reply(turn) == reply


@given(st.integers(-50, 50), st.integers(0, 100))
def test_guesses_are_answered_until_one_is_right(secret: int, seed: int) -> None:
    game, chance = Guessing(), random.Random(seed)
    game.start(Problem("p", "Guess a number.", str(secret)), seed)
    assert game.reply("I do not know") == "Guess a number."
    low, high = -50, 50
    while (reply := game.reply(f"not {chance.randint(-9, 9)}, but {(low + high) // 2}.")) is not None:
        guess = (low + high) // 2
        assert reply == ("higher" if guess < secret else "lower")
        low, high = (guess + 1, high) if reply == "higher" else (low, guess - 1)
    assert (low + high) // 2 == secret


@pytest.mark.parametrize("wrong", [{"max_turns": 0}, {"max_reply_tokens": 0}, {"reply_seconds": 0.0}])
def test_impossible_limits_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"turns: .*{next(iter(wrong))} "):
        TurnLimits(**wrong)  # type: ignore[arg-type]
