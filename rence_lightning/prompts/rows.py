"""Rows of data sets in other formats: nested fields, the final answer, the part of a data set that a row is in."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from numbers import Rational, Real
from typing import Any, Literal, get_args

from rence_lightning.errors import UserError, did_you_mean, kind_of, shortened
from rence_lightning.parts import Problem, last_boxed, share_of

AnswerFormat = Literal["plain", "boxed", "gsm8k"]
Part = Literal["train", "test"]

# A few reference solutions of MATH write `\boxed 4`, which LaTeX reads as a box around the next token.
_BARE_BOX = re.compile(r"\\boxed\s+([^\s$\\{}]+)")
_MATH_DELIMITERS = re.compile(r"\A\$([^$]+)\$\Z")
_MISSING = object()

LARGEST_ROUNDING = Decimal("0.05")
"""Largest rounding error that is allowed, as a share of the number; a number of one digit would otherwise exceed it."""


class UnansweredError(UserError):
    """A row has no final answer."""


@dataclass(kw_only=True)
class RowSchema:
    """How the rows of a data set are read: the settings that all sources of rows inherit.

    Field names may be paths into nested values, with positions in lists: `prompt.0.content`.

    Args:
        problem_field: Field with the text of the problem; may be a path such as `prompt.0.content`.
        answer_field: Field with the answer, in the form that `answer_format` names; may be a path. An empty text: rows
            without answers.
        id_field: Field with the id. None: the field `id` where a row has one, else `<source>/<row number>`. An empty
            text: `<source>/<row number>`.
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
            template's; without `problem_field`, the last turn is the text of the problem. A turn of the assistant at
            the end is the solution and no part of the prompt. None: the template's turns.
        system_field: Field with the system turn of a row, in place of the template's. None: the template's.
        template_field: Field with the instructions of a row, which contain `{problem}`. None: the template's.
        solution_field: Field with the worked response to a problem, on which `warmup` trains; may be a path. It is read
            where a row has it and no turn of the assistant.
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
    solution_field: str = "solution"
    part: Part | None = None
    held_out: float = 0.1
    part_field: str | None = None
    rounded: bool = False

    def __post_init__(self) -> None:
        if self.answer_format not in (known := get_args(AnswerFormat)):
            raise UserError(f"answer_format: {self.answer_format!r} is not one of {', '.join(known)}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit: must be at least 1, or null for all rows, not {self.limit}")
        if self.part not in (None, *get_args(Part)):
            raise UserError(f"part: {self.part!r} is not one of {', '.join(get_args(Part))}, or null for all rows")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out: {self.held_out} must be a share between 0 and 1")

    def fits(self, row: dict[str, Any]) -> bool:
        """Whether the row has the fields that the schema names."""
        named = (self.problem_field, self.answer_field, self.id_field)
        return all(not field or _lookup(row, field) is not _MISSING for field in named)

    def read(self, row: dict[str, Any], where: str, source: str, number: int) -> Problem | None:
        """The problem of a row; None where the row is in the other part of the data set.

        The part is a function of the problem's text alone, or of the value of `part_field`: it is the same in every
        order of the rows, and however many are added. Messages begin with the place of the row, `where`.

        Raises:
            UnansweredError: The row has no final answer.
            UserError: Another field cannot be read.
        """
        text, answer = self._problem(row, where), self._answer(row, where) if self.answer_field else ""
        if self.part is not None:
            key = text if self.part_field is None else _required(row, self.part_field, "part_field", where)
            if (share_of(str(key)) < self.held_out) != (self.part == "test"):
                return None
        system = _own_text(row, self.system_field, "system_field", where)
        template = _own_text(row, self.template_field, "template_field", where)
        identifier = self._identifier(row, where, source, number)
        messages, solution = self._chat(row, where)
        return Problem(identifier, text, answer, source, row, messages, system, template, solution)

    def _problem(self, row: dict[str, Any], where: str) -> str:
        if self.messages_field is not None and _lookup(row, self.problem_field) is _MISSING:
            text = self._chat(row, where)[0][-1]["content"]
        else:
            text = _text(_required(row, self.problem_field, "problem_field", where), self.problem_field, where)
        if not text.startswith(self.strip_prefix):
            raise UserError(f"{where}: the problem does not begin with strip_prefix {shortened(self.strip_prefix)}")
        text = text.removeprefix(self.strip_prefix)
        if not text.endswith(self.strip_suffix):
            raise UserError(f"{where}: the problem does not end with strip_suffix {shortened(self.strip_suffix)}")
        text = text.removesuffix(self.strip_suffix).strip()
        if not text:
            raise UserError(f"{where}: the problem (field {self.problem_field!r}) is empty; fix or remove the row")
        return text

    def _answer(self, row: dict[str, Any], where: str) -> str:
        field, skip = self.answer_field, "or set skip_unanswered: true"
        value = _lookup(row, field)
        if value is _MISSING:
            skip += " (where a reward needs no answers: answer_field: '')"
            raise UnansweredError(f"{where}: {_not_there(field, 'answer_field', row)}; {skip}")
        if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas has NaN for null
            raise UnansweredError(f"{where}: field {field!r} is {kind_of(value)}; fix the row, {skip}")
        if (text := _scalar_text(value)) is None:
            inner = ", ".join(_paths(value, field)) if value and isinstance(value, list | dict) else ""
            fix = f"name one of its values, such as {inner}" if inner else "write it as a text or a number"
            raise UserError(f"{where}: field {field!r} holds no answer but {kind_of(value)}; {fix}")
        answer = _final_answer(_text(text, field, where), self.answer_format)
        if answer is None:
            sought = {"boxed": r"\boxed{...}", "gsm8k": "#### ANSWER"}[self.answer_format]
            change = f"fix the row, change answer_format {self.answer_format}, name another field"
            raise UnansweredError(f"{where}: no {sought} in field {field!r}; {change}, {skip}")
        if not answer:
            raise UnansweredError(f"{where}: the answer in field {field!r} is empty; fix the row, {skip}")
        return self._with_tolerance(answer, row, where)

    def _with_tolerance(self, answer: str, row: dict[str, Any], where: str) -> str:
        error = _MISSING if self.tolerance_field is None else _lookup(row, self.tolerance_field)
        if error is not _MISSING and error not in (None, ""):
            number = _decimal(_scalar_text(error) or "")
            if number is None or number <= 0:
                raise UserError(f"{where}: field {self.tolerance_field!r} must hold a positive number, not {error!r}")
            return rf"{answer} \pm {number:f}"
        value = _decimal(answer) if self.rounded and not set(".eE").isdisjoint(answer) else None
        if value is None:
            return answer
        half_a_unit = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
        return rf"{answer} \pm {min(half_a_unit, abs(value) * LARGEST_ROUNDING or half_a_unit).normalize()}"

    def _chat(self, row: dict[str, Any], where: str) -> tuple[tuple[dict[str, str], ...], str | None]:
        """The turns that are the prompt, empty for the template's, and the solution, which may be the last turn."""
        own = _lookup(row, self.solution_field)
        solution = _text(own, self.solution_field, where) if isinstance(own, str) else None
        if self.messages_field is None:
            return (), solution
        field = self.messages_field
        turns = _required(row, field, "messages_field", where)
        if not _is_chat(turns):
            example = '{"role": "user", "content": "1+1=?"}'
            raise UserError(f"{where}: field {field!r} must be a list of turns such as {example}")
        chat = [{"role": turn["role"], "content": _text(turn["content"], field, where)} for turn in turns]
        if chat[-1]["role"] == "assistant":
            solution = chat.pop()["content"]
        if not chat:
            raise UserError(
                f"{where}: field {field!r} holds no turn before that of the assistant; fix or remove the row"
            )
        return tuple(chat), solution

    def _identifier(self, row: dict[str, Any], where: str, source: str, number: int) -> str:
        """The id. A plain number is prefixed with the name of the source, as other data sets are numbered too."""
        field = "id" if self.id_field is None else self.id_field
        value = _required(row, field, "id_field", where) if self.id_field else row.get(field)
        text = _scalar_text(number if not self.id_field and value in (None, "") else value)
        if not text:
            raise UserError(f"{where}: field {field!r} holds no id but {kind_of(value)}")
        return f"{source}/{text}" if _text(text, field, where).isdecimal() else text


def _is_chat(value: object) -> bool:
    turns = value if isinstance(value, list) and all(isinstance(turn, dict) for turn in value) else ()
    texts = [turn.get(key) for turn in turns for key in ("role", "content")]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)


def _own_text(row: dict[str, Any], field: str | None, argument: str, where: str) -> str | None:
    """The text in a field of a row, which may be null; None where the schema names no field."""
    value = None if field is None else _required(row, field, argument, where)
    return None if field is None or value is None else _text(value, field, where)


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        kind = "a chat, which is a messages_field" if _is_chat(value) else f"{kind_of(value)}; name another field"
        raise UserError(f"{where}: field {field!r} is not text but {kind}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # valid JSON, for which a tokenizer raises an exception later
        what = f"has half a surrogate pair at character {error.start + 1}"
        raise UserError(f"{where}: field {field!r} {what}; fix or remove the row") from error
    return value


def _lookup(row: dict[str, Any], field: str) -> Any:
    """The value at a path of names and list positions, or `_MISSING`."""
    if field in row:  # a name that contains dots of its own
        return row[field]
    value: Any = row
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
        raise UserError(f"{where}: {_not_there(field, argument, row)}")
    return value


def _not_there(field: str, argument: str, row: dict[str, Any]) -> str:
    there = _paths(row)
    known = f"(of FileProblems, ListProblems, ...) to one of those that are there: {', '.join(there) or 'none'}"
    return f"no field {field!r}{did_you_mean(field, there)}; set {argument} {known}"


def _paths(value: Any, prefix: str = "") -> list[str]:
    """The fields of a row, nested ones as paths. Of a list, the first value stands for all."""
    if isinstance(value, dict) and value:
        return [path for key, inner in value.items() for path in _paths(inner, f"{prefix}.{key}".removeprefix("."))]
    if _is_chat(value):
        return [f"{prefix} (a chat: messages_field)"]
    if isinstance(value, list) and value and prefix:
        return _paths(value[0], f"{prefix}.0")
    return [prefix] if prefix else []


def _scalar_text(value: Any) -> str | None:
    """A string without outer blanks, or a number as it is written by hand: 142.0 as `142`. None for other values."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return None
    if isinstance(value, Rational) or (isinstance(value, Decimal) and value.is_finite()):  # also integers of NumPy
        return str(value)
    if isinstance(value, Real) and math.isfinite(value):
        return str(int(float(value))) if float(value).is_integer() else str(value)
    return None


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and text[-1].isdigit() else None


def _final_answer(text: str, answer_format: AnswerFormat) -> str | None:
    """The answer in a field of this format, without dollar signs around it; None where there is none."""
    if answer_format == "boxed":
        boxed, bare = last_boxed(text), _BARE_BOX.findall(text)
        if boxed is None and not bare:
            return None
        text = bare[-1].rstrip(".,;") if boxed is None else boxed
    elif answer_format == "gsm8k":
        _, marker, end = text.rpartition("####")
        if not marker:
            return None
        text = end.replace(",", "")
    return _MATH_DELIMITERS.sub(r"\1", text.strip()).strip()
