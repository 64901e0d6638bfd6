"""Numbers are compared relatively: no tiny, huge or nearly equal number passes for another one."""

import time
from fractions import Fraction
from math import factorial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rence_lightning.rewards import math_equivalent
from rence_lightning.rewards.grading.equivalence import equivalent

NUMBERS = st.integers(2, 9)
EXPONENTS = st.integers(-250, 250)


@st.composite
def values(draw: st.DrawFn) -> tuple[str, Fraction]:
    """A number, often tiny or huge, as LaTeX and as a fraction."""
    one, other, m, n = draw(NUMBERS), draw(NUMBERS), draw(EXPONENTS), draw(EXPONENTS)
    up, down = abs(m), abs(n)
    return draw(
        st.sampled_from(
            [
                (rf"({one}/{other})^{{{m}}}", Fraction(one, other) ** m),
                (rf"\frac{{{up}!}}{{{down}!}}", Fraction(factorial(up), factorial(down))),
                (rf"\frac{{{one}^{{{up}}}+1}}{{{other}^{{{down}}}}}", Fraction(one**up + 1, other**down)),
                (
                    rf"{one} \cdot 10^{{{m}}} - {other} \cdot 10^{{{n}}}",
                    one * Fraction(10) ** m - other * Fraction(10) ** n,
                ),
                (rf"{one} + {other}^{{{m}}}", one + Fraction(other) ** m),
            ]
        )
    )


@settings(deadline=None, max_examples=10)
@given(values(), values(), st.integers(-300, -1))
def test_two_rational_numbers_are_equal_where_their_fractions_are(
    one: tuple[str, Fraction], other: tuple[str, Fraction], tiny: int
) -> None:
    (gold, value), (prediction, predicted) = one, other
    assert equivalent(gold, prediction) is (value == predicted)
    assert equivalent(gold, rf"\frac{{3({gold})}}{{3}}")
    assert not equivalent(gold, rf"({gold}) + 7^{{{tiny}}}")


SURROUNDINGS = ["%s", "(1, %s)", r"\{%s, 3\}", "[0, %s)", r"\begin{pmatrix} %s & 1 \\ 0 & 1 \end{pmatrix}", "x = %s"]
SURROUNDINGS += ["x < %s", r"%s \text{ C}", "%s i", "y = %s x", r"\frac{%s}{3} + \sqrt{2}"]


@pytest.mark.parametrize("written", SURROUNDINGS)
@pytest.mark.parametrize(
    ("gold", "same", "other"),
    [
        ("(1/2)^{100}", "4^{-50}", "(1/3)^{100}"),
        (r"1.6 \times 10^{-19}", r"16 \cdot 10^{-20}", r"1.7 \times 10^{-19}"),
        (r"\sqrt{10^{100}+1}", r"\sqrt{1+10^{100}}", "10^{50}"),
    ],
)
def test_tiny_and_huge_numbers_differ_wherever_they_stand(written: str, gold: str, same: str, other: str) -> None:
    assert math_equivalent(written % gold, written % same)
    assert not math_equivalent(written % gold, written % other)
    assert not math_equivalent(written % gold, written % "10^{-50}")


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
        (r"\ln 6", r"\ln 2 + \ln 3"),
        (r"\pi", r"4\arctan(1/2) + 4\arctan(1/3)"),
        (r"e^{-100}", r"\frac{1}{e^{100}}"),
    ],
)
def test_irrational_numbers_are_equal_only_exactly(gold: str, prediction: str) -> None:
    begin = time.process_time()
    assert equivalent(gold, prediction)
    for exponent in (20, 200, 900):
        assert not equivalent(gold, rf"{prediction} + 10^{{-{exponent}}}")
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("part", ["1/3", "1/30000", "2/7", "1/70000", r"\frac{1}{3} \cdot 10^{-7}"])
def test_a_decimal_has_six_places_and_three_significant_digits(part: str) -> None:
    value = float(Fraction("1/30000000" if "frac" in part else part))
    for places in range(1, 15):
        rounded = f"{value:.{places}f}"
        close = abs(float(rounded) - value) <= 1.0001e-3 * value
        assert equivalent(part, rounded) is (close and round(float(rounded), 6) == round(value, 6))
