"""References that state a tolerance, and the files that bring them."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.errors import UserError
from rence_lightning.evaluation.benchmarks import BenchmarkFile
from rence_lightning.prompts import FileProblems
from rence_lightning.rewards import math_equivalent
from rence_lightning.rewards.grading.equivalence import equivalent


@pytest.mark.parametrize(
    ("gold", "prediction", "same"),
    [
        (r"1.6 \pm 0.05", "1.571", True),
        (r"1.6 \pm 0.05", r"\frac{\pi}{2}", True),
        (r"1.6 \pm 0.05", r"1.6 \text{ cm}", True),
        (r"1.6 \pm 0.05", r"\approx 1.58", True),
        (r"1.6 \pm 0.05", "1.5", False),
        (r"1.6 \pm 0.05", "-1.6", False),
        (r"1.6 \pm 0.05", "1.6 i", False),
        (r"1.6 \pm 0.05", r"\text{about } 1.6", False),
        (r"4.5e33 \pm 5E+31", r"4.52 \times 10^{33}", True),
        (r"4.2 \pm 0.1", "x = 4.25", True),
        (r"1 \pm \sqrt{2}", r"1-\sqrt{2}, 1+\sqrt{2}", True),
        (r"3 \pm 1", "3.5", False),
    ],
)
def test_tolerance(gold: str, prediction: str, same: bool) -> None:
    assert equivalent(gold, prediction) is same


@given(
    digits=st.integers(100, 99_999),
    places=st.integers(1, 6),
    offset=st.decimals("-0.02", "0.02", allow_nan=False, places=6),
)
def test_a_number_is_right_just_where_it_is_within(digits: int, places: int, offset: Decimal) -> None:
    value = Decimal(digits).scaleb(-places)
    prediction = value + offset
    assert equivalent(rf"{value:f} \pm 0.01", f"{prediction:f}") is (abs(offset) <= Decimal("0.01"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1.6", r"1.6 \pm 0.05"),
        ("4.5e33", r"4.5e33 \pm 5E+31"),
        ("0.006", r"0.006 \pm 0.0003"),
        ("2e3", r"2e3 \pm 1E+2"),
        ("200", "200"),
        ("np.arcsin(10/13)", "np.arcsin(10/13)"),
        ("0.0", r"0.0 \pm 0.05"),
    ],
)
def test_rounded_answers_state_half_a_unit_of_their_last_digit(written: str, read: str, tmp_path: Path) -> None:
    path = tmp_path / "rounded.jsonl"
    path.write_text(json.dumps({"problem": "p", "answer": written}) + "\n")
    (problem,) = FileProblems(str(path), rounded=True).load()
    assert problem.answer == read
    assert math_equivalent(problem.answer, written)


def test_an_error_field_is_the_tolerance(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    rows = [{"problem": "p", "answer": "4.2", "error": "1e-1"}, {"problem": "p", "answer": "5", "error": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"problem": "q", "answer": "6"}]))
    answers = [problem.answer for problem in FileProblems(str(path), tolerance_field="error").load()]
    assert answers == [r"4.2 \pm 0.1", "5", "6"]
    path.write_text('{"problem": "p", "answer": "1", "error": "some"}\n')
    with pytest.raises(UserError, match="line 1: field 'error' must hold a positive number, not 'some'"):
        FileProblems(str(path), tolerance_field="error").load()


@pytest.mark.data
def test_minerva_accepts_its_own_numbers_and_their_roundings(data_folder: Path) -> None:
    path = str(data_folder / "eval" / "minerva_math.jsonl")
    raw = [problem.answer for problem in FileProblems(path).load()]
    read = [problem.answer for problem in BenchmarkFile("minerva", path).load()]
    assert sum(one != other for one, other in zip(raw, read, strict=True)) == 125
    assert all(math_equivalent(gold, written) for gold, written in zip(read, raw, strict=True))
    # A relative error of four parts in a hundred thousand is within any rounding to four digits or fewer.
    rounded = [(g, w) for g, w in zip(read, raw, strict=True) if r"\pm" in g and len(w.split("e")[0].strip("-0.")) <= 4]
    assert all(math_equivalent(gold, repr(float(written) * 1.00004)) for gold, written in rounded)
    assert not any(math_equivalent(gold, repr(float(written) * 1.2)) for gold, written in rounded if float(written))
