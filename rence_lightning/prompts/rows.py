"""Rows of data sets in other formats: nested fields, the final answer, the part of a data set that a row is in."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

from rence_lightning.errors import UserError
from rence_lightning.text import kind_of, last_boxed, share_of, shortened

AnswerFormat = Literal["plain", "boxed", "gsm8k"]
Part = Literal["train", "test"]

# A few reference solutions of MATH write `\boxed 4`, which LaTeX reads as a box around the next token.
_BARE_BOX = re.compile(r"\\boxed\s+([^\s$\\{}]+)")
_MATH_DELIMITERS = re.compile(r"\$([^$]+)\$")
_ROUNDED = re.compile(r"[.eE]")
_MISSING = object()

LARGEST_ROUNDING = Decimal("0.05")
"""Largest rounding error that is allowed, as a share of the number; a number of one digit would otherwise exceed it."""


class UnansweredError(UserError):
    """A row has no final answer."""


@dataclass(kw_only=True)
class RowSchema:
    """How the rows of a data set are read: the settings that all sources of rows inherit.

    Field names may be paths into nested values, with positions in lists: `reward_model.ground_truth`,
    `prompt.0.content`.

    Args:
        problem_field: Field with the text of the problem; may be a path such as `prompt.0.content`.
        answer_field: Field with the answer, in the form that `answer_format` names; may be a path.
        id_field: Field with the id. None: the field `id` where a row has one, else `<source>/<row number>`.
        limit: Number of rows to read from the start. None: all rows.
        answer_format: Form of the answer. `plain`: the field is the final answer. `boxed`: a solution whose last
            `\\boxed{}` is the answer (MATH). `gsm8k`: a solution that ends in `#### 12`.
        strip_prefix: Text before the problem, such as the instructions of another project, which is removed from every
            row; a row that does not begin with it is an error.
        strip_suffix: Text after the problem, which is removed from every row; a row that does not end with it is an
            error.
        skip_unanswered: Whether rows without a final answer are left out, with a warning that counts them; otherwise
            such a row is an error.
        tolerance_field: Field with the absolute error that is allowed in an answer, where a row has one. The answer is
            then written as `4.2 \\pm 0.1`, which the grader reads.
        messages_field: Field with the turns of a chat, `[{"role": "user", "content": ...}, ...]`, which replace the
            template's; without `problem_field`, the last turn is the text of the problem. None: the template's turns.
        system_field: Field with the system turn of a row, in place of the template's. None: the template's.
        template_field: Field with the instructions of a row, which contain `{problem}`. None: the template's.
        part: Part of the rows: `train`, or `test` for those that are held out. None: all rows.
        held_out: Share of the rows that are in the test part.
        part_field: Field whose value decides in which part a row is, so that rows of equal values stay together. None:
            the text of the problem.
        rounded: Whether answers with a decimal point or an exponent are rounded numbers, so that a number which rounds
            to one is right. They are written with half a unit of their last digit as the error, `1.6 \\pm 0.05`, at
            most 5% of the number.

    Raises:
        UserError: The answer format is unknown, or the limit is below 1.
    """

    problem_field: str = "problem"
    answer_field: str = "answer"
    id_field: str | None = None
    limit: int | None = None
    answer_format: AnswerFormat = "plain"
    strip_prefix: str = ""
    strip_suffix: str = ""
    skip_unanswered: bool = False
    tolerance_field: str | None = None
    messages_field: str | None = None
    system_field: str | None = None
    template_field: str | None = None
    part: Part | None = None
    held_out: float = 0.1
    part_field: str | None = None
    rounded: bool = False

    def fits(self, row: dict[str, Any]) -> bool:
        """Whether the row has the fields that the schema names."""
        named = [self.problem_field, self.answer_field, *([self.id_field] if self.id_field is not None else [])]
        return all(_lookup(row, field) is not _MISSING for field in named)

    def __post_init__(self) -> None:
        if self.answer_format not in get_args(AnswerFormat):
            known = ", ".join(get_args(AnswerFormat))
            raise UserError(f"answer_format: {self.answer_format!r} is not one of {known}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit: must be at least 1, or null for all rows, not {self.limit}")
        if self.part not in (None, *get_args(Part)):
            raise UserError(f"part: {self.part!r} is not one of {', '.join(get_args(Part))}, or null for all rows")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out: {self.held_out} must be a share between 0 and 1")

    def problem(self, row: dict[str, Any], where: str) -> str:
        """The text of the problem, without strip_prefix and strip_suffix."""
        if self.messages_field is not None and _lookup(row, self.problem_field) is _MISSING:
            text: Any = self.messages(row, where)[-1]["content"]
        else:
            text = _required(row, self.problem_field, "problem_field", where)
        if not isinstance(text, str):
            raise UserError(
                f"{where}: field {self.problem_field!r} is not text but {kind_of(text)}; name another field"
            )
        _check_unicode(text, self.problem_field, where)
        if not text.startswith(self.strip_prefix):
            raise UserError(f"{where}: the problem does not begin with strip_prefix {shortened(self.strip_prefix)}")
        text = text[len(self.strip_prefix) :]
        if not text.endswith(self.strip_suffix):
            raise UserError(f"{where}: the problem does not end with strip_suffix {shortened(self.strip_suffix)}")
        text = text[: len(text) - len(self.strip_suffix)].strip()
        if not text:
            raise UserError(f"{where}: the problem (field {self.problem_field!r}) is empty; fix or remove the row")
        return text

    def answer(self, row: dict[str, Any], where: str) -> str:
        """The final answer, as text."""
        value = _lookup(row, self.answer_field)
        if value is _MISSING or value is None:
            lacking = f"no field {self.answer_field!r}" if value is _MISSING else f"field {self.answer_field!r} is null"
            raise UnansweredError(
                f"{where}: {lacking}; fix the row, set skip_unanswered: true, or set answer_field to one of those that "
                f"are there: {', '.join(_paths(row)) or 'none'}"
            )
        text = _scalar_text(value)
        if text is None:
            fix = f"; name one of its values, such as {self.answer_field}.0" if isinstance(value, list) else ""
            raise UserError(f"{where}: field {self.answer_field!r} holds no answer but {kind_of(value)}{fix}")
        _check_unicode(text, self.answer_field, where)
        answer = _final_answer(text, self.answer_format)
        if answer is None:
            sought = {"boxed": r"\boxed{...}", "gsm8k": "#### ANSWER"}[self.answer_format]
            raise UnansweredError(
                f"{where}: no {sought} in field {self.answer_field!r}, which answer_format: {self.answer_format} asks "
                "for; fix the row, name another field or format, or set skip_unanswered: true"
            )
        if not answer:
            raise UnansweredError(
                f"{where}: the answer (field {self.answer_field!r}) is empty; fix the row or set skip_unanswered: true"
            )
        return self._with_tolerance(answer, row, where)

    def _with_tolerance(self, answer: str, row: dict[str, Any], where: str) -> str:
        if self.tolerance_field is not None:
            error = _lookup(row, self.tolerance_field)
            if error is not _MISSING and error not in (None, ""):
                number = _decimal(_scalar_text(error) or "")
                if number is None or number <= 0:
                    raise UserError(
                        f"{where}: field {self.tolerance_field!r} must hold a positive number, not {error!r}"
                    )
                return rf"{answer} \pm {number:f}"
        value = _decimal(answer) if self.rounded and _ROUNDED.search(answer) else None
        if value is None:
            return answer
        half_a_unit = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
        return rf"{answer} \pm {min(half_a_unit, abs(value) * LARGEST_ROUNDING or half_a_unit).normalize()}"

    def messages(self, row: dict[str, Any], where: str) -> tuple[dict[str, str], ...]:
        """The turns of the row's own chat; empty where the schema names no field of them."""
        if self.messages_field is None:
            return ()
        turns = _required(row, self.messages_field, "messages_field", where)
        if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
            raise UserError(
                f"{where}: field {self.messages_field!r} must be a list of turns such as "
                '{"role": "user", "content": "1+1=?"}'
            )
        if turns[-1]["role"] == "assistant":
            raise UserError(f"{where}: the last turn in field {self.messages_field!r} is the assistant's; remove it")
        for turn in turns:
            _check_unicode(turn["content"], self.messages_field, where)
        return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)

    def system(self, row: dict[str, Any], where: str) -> str | None:
        """The row's own system turn; None where it has none."""
        return _own_text(row, self.system_field, "system_field", where)

    def template(self, row: dict[str, Any], where: str) -> str | None:
        """The row's own instructions; None where it has none."""
        return _own_text(row, self.template_field, "template_field", where)

    def in_part(self, row: dict[str, Any], where: str, problem: str) -> bool:
        """Whether the row is in the part of the data set that the schema names.

        The part is a function of the text alone, or of the value of `part_field`: it is the same in every order of the
        rows, and however many are added.
        """
        if self.part is None:
            return True
        key: Any = problem
        if self.part_field is not None:
            key = _required(row, self.part_field, "part_field", where)
        return (share_of(str(key)) < self.held_out) == (self.part == "test")

    def identifier(self, row: dict[str, Any], where: str, source: str, number: int) -> str:
        """The id of the row. A plain number is prefixed with the name of the source, as other data sets are numbered
        too."""
        if self.id_field is None:
            value = row.get("id")
            if value is None or value == "":
                value = number
        else:
            value = _required(row, self.id_field, "id_field", where)
        text = _scalar_text(value)
        if not text:
            raise UserError(f"{where}: field {self.id_field or 'id'!r} holds no id but {kind_of(value)}")
        _check_unicode(text, self.id_field or "id", where)
        return f"{source}/{text}" if text.isdecimal() else text


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(key), str) and turn[key] for key in ("role", "content"))


def _own_text(row: dict[str, Any], field: str | None, argument: str, where: str) -> str | None:
    """The text in a field of a row, which may be null; None where the schema names no field."""
    text = None if field is None else _required(row, field, argument, where)
    if field is None or text is None:
        return None
    if not isinstance(text, str):
        raise UserError(f"{where}: field {field!r} is not text but {kind_of(text)}; name another field")
    _check_unicode(text, field, where)
    return text


def _lookup(row: Any, field: str) -> Any:
    """The value at a path of names and list positions, or `_MISSING`."""
    if isinstance(row, dict) and field in row:  # a name that contains dots of its own
        return row[field]
    value = row
    for key in field.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return _MISSING
    return value


def _required(row: dict[str, Any], field: str, argument: str, where: str) -> Any:
    value = _lookup(row, field)
    if value is _MISSING:
        there = ", ".join(_paths(row)) or "none"
        raise UserError(f"{where}: no field {field!r}; set {argument} to one of those that are there: {there}")
    return value


def _paths(value: Any, prefix: str = "") -> list[str]:
    """The fields of a row, nested ones as paths. Of a list, the first value stands for all."""
    if isinstance(value, dict) and value:
        return [path for key, inner in value.items() for path in _paths(inner, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list) and value and prefix:
        return _paths(value[0], f"{prefix}.0")
    return [prefix] if prefix else []


def _scalar_text(value: Any) -> str | None:
    """A string without outer blanks, or a number as it is written by hand: 142.0 as `142`. None for other values."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, Decimal)):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return None


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and text[-1].isdigit() else None


def _final_answer(text: str, answer_format: AnswerFormat) -> str | None:
    """The answer in a field of this format, without dollar signs around it; None where there is none."""
    answer = _found_answer(text, answer_format)
    whole = _MATH_DELIMITERS.fullmatch(answer) if answer is not None else None
    return whole.group(1).strip() if whole else answer


def _found_answer(text: str, answer_format: AnswerFormat) -> str | None:
    if answer_format == "boxed":
        answer = last_boxed(text)
        if answer is None and (bare := _BARE_BOX.findall(text)):
            answer = bare[-1].rstrip(".,;")
        return None if answer is None else answer.strip()
    if answer_format == "gsm8k":
        _, marker, answer = text.rpartition("####")
        return answer.strip().replace(",", "") if marker else None
    return text


def _check_unicode(text: str, field: str, where: str) -> None:
    # A lone `\ud835` in JSON is a valid string in Python, but a tokenizer raises an exception for it later.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: field {field!r} has half a surrogate pair at character {error.start + 1}; fix or remove the row"
        ) from error
