"""Which answers are the same: the documented choices, and the cheap checks against exact arithmetic."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.grading.pairs import Pair, read_pairs
from rence_lightning.rewards import math_equivalent
from rence_lightning.rewards.grading.equivalence import MAX_CHARACTERS, equivalent, quick_verdict
from rence_lightning.rewards.grading.notation import one_notation
from rence_lightning.rewards.grading.structure import bare, same_quantity, same_structure

SAME = [
    ("1/2", "0.5"),
    (r"\frac{1}{2}", r"\dfrac{2}{4}"),
    ("1/3", "0.333333"),
    ("1{,}234", "1234"),
    ("7", "007."),
    ("3", "x=3"),
    ("5", r"5 \text{ cm}"),
    ("50", r"50\%"),
    (r"50\%", "0.5"),
    ("1,2", "2,1"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("$x^2+2x+1$", "(x+1)^2"),
    ("x<3", r"(-\infty,3)"),
    (r"\text{East}", "east"),
    ("$5$", r"\(5\)"),
]
DIFFERENT = [
    ("12345678", "12345679.0"),
    ("0.1234567", "0.1234568"),
    ("A", r"\text{(A) and (B)}"),
    (r"\mathbb{R}", r"\mathbb{R} \setminus \{0\}"),
    (r"\{(x,y) : x>2\}", "x>2"),
    (r"1 \pm 2", "3,1"),
    ("4.6e-24", "4.6e-24^2"),
    ("1/3", "0.333"),
    ("(1,2)", "(2,1)"),
    ("3", "3 or 4"),
    ("3", "$4$, $3$"),
    ("x<3", "x>3"),
    ("12", "1 2"),
    ("listen", "silent"),
    ("3", ""),
    ("100000000000000000000", "100000000000000000001"),
]


@pytest.mark.parametrize(("gold", "prediction"), [*SAME, *DIFFERENT])
def test_the_documented_choices_and_no_quick_verdict_against_them(gold: str, prediction: str) -> None:
    same = (gold, prediction) in SAME
    assert math_equivalent(gold, prediction) is same
    assert quick_verdict(gold, prediction) in (None, same)


@given(st.text("0123456789abcxyz+-*/^(){} ,", min_size=1, max_size=20).filter(str.strip))
def test_an_answer_equals_itself(answer: str) -> None:
    assert quick_verdict(answer, answer) is True
    assert quick_verdict(answer, f" ${answer}$. ") is True


@given(
    st.integers(-(10**30), 10**30),
    st.integers(-(10**30), 10**30),
    st.sampled_from(["{}", "{:,}", "${}$", " {} ", "{}.", "+{}", "00{}"]),
)
def test_the_quick_verdict_compares_integers_exactly(gold: int, other: int, style: str) -> None:
    written = gold if other == 0 else other
    style = style if written >= 0 else style.lstrip("+0")
    assert quick_verdict(str(gold), style.format(written)) is (written == gold)
    assert quick_verdict(str(other), style.format(other)) is True


@settings(deadline=None)  # the first call imports sympy
@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50))
def test_fractions_against_exact_arithmetic(gold: Fraction, prediction: Fraction) -> None:
    latex = rf"\frac{{{prediction.numerator}}}{{{prediction.denominator}}}"
    assert equivalent(str(gold), latex) is (gold == prediction or abs(gold - prediction) < 1e-6)


NOT_UNDERSTOOD = (r"\mathbf{i} + 2\mathbf{j}",)
"""Labelled pairs that are the same, and are missed."""


@pytest.mark.parametrize(
    "pair", list(read_pairs()), ids=lambda pair: f"{pair.category}: {pair.gold} # {pair.prediction}"
)
def test_labelled_pairs(pair: Pair) -> None:
    expected = pair.same and pair.gold not in NOT_UNDERSTOOD
    assert math_equivalent(pair.gold, pair.prediction) is expected


PIECES = st.sampled_from(
    [
        *("1", "23", "-", "+", "x", "y", "=", "<", ">", r"\le ", r"\ge", ",", " ", "(", ")", "[", "]", "{", "}"),
        *(r"\{", r"\}", r"\cup", r"\infty", r"\text{ or }", r"\text{ cm}", r"\text{", "or", "and", "_", "^", "/"),
        *(r"\frac", r"\pm", "°", "√", "e", ".", r"\boxed{", "the answer is ", "dollars", r"\in", r"\left", r"\,"),
        *(r"\ldots", "...", r"\pmod 7", r"\color{red}", "½", "\u200b", r"\sin 60^\circ", "E: ", r"\textcolor{blue}"),
        *("\0", "\ud800", r" \times 10^{", "e9999"),
    ]
)
HOSTILE = [*"([{})]=<,°√. ", r"\text{", r"\cup ", "1 ", "a_", r"\,", "or ", r"\le x", "1e", "x=1,"]
HOSTILE += [r"\ldots,", "1 000", "~", r"\color{a}", "(mod", "...", "+", r"\cdots+", r"\sin 1^\circ ", "½", "E: "]
HOSTILE += [r"\text{a}", r"\text{cm}\cdot", "5 feet ", "1:", "1P_", "a'", " million", "|x|<"]
HOSTILE += [r"x \ne 1,", r"\quad ", "0.33", r" \text{ cm}", "ab)"]


@given(st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=12).map("".join))
def test_notation_and_structure_take_anything(gold: str, prediction: str) -> None:
    left, right = one_notation(gold), one_notation(prediction)
    assert same_structure(left, right, lambda one, other: one == other) in (True, False, None)
    assert same_structure(left, left, lambda one, other: one == other) in (True, None)


@pytest.mark.parametrize("piece", HOSTILE)
def test_notation_and_structure_take_no_time(piece: str) -> None:
    long = piece * (MAX_CHARACTERS // len(piece))
    begin = time.process_time()
    for pair in ((long, long + "1"), (long, "1"), ("[0,1)", long)):
        one, other = map(one_notation, pair)
        same_quantity(one, other, lambda a, b: a == b)
        same_structure(bare(one), bare(other, letters=True), lambda a, b: a == b)
    assert time.process_time() - begin < 0.5


def test_long_answers_need_no_algebra() -> None:
    ones = "1" * 1_000_000
    begin = time.process_time()
    assert quick_verdict(ones, ones) is True
    assert quick_verdict(ones, "0" + ones) is True
    assert quick_verdict(ones, ones[:-1] + "2") is False
    assert quick_verdict("3", "x" * (MAX_CHARACTERS + 1)) is False
    assert quick_verdict("x" * 5_000, " x" * 1 + "x" * 4_999) is True
    assert quick_verdict("a b", "a" + " " * 1_000_000 + "b") is True
    assert time.process_time() - begin < 2.0
