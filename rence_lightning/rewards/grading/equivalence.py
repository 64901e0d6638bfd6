r"""Whether two final answers are the same: cheap exact checks, one notation, structure, and math-verify for the rest.

What counts as equal is math-verify's policy, with the reference answer first, because `verify` is not symmetric
(https://github.com/huggingface/Math-Verify). The choices that graders differ in:

| reference | also right | wrong |
| --- | --- | --- |
| `1/2` | `0.5`, `\frac12`, `2/4` | `1/3` |
| `1/3` | `0.333333` (six decimals) | `0.333` |
| `1234` | `1,234`, `x=1234`, `1234 \text{ cm}` | `1235` |
| `50` | `50\%` | `5` |
| `1.6 \pm 0.05` | `1.571` | `1.5` |
| `\{1,2\}` or `1,2` | `\{2,1\}`, `2,1` | `1` |
| `(1,2)` | `\left(1, 2\right)`, `1,2` | `(2,1)` |
| `x<3` | `(-\infty,3)` | `x>3` |
| `\text{East}` | `east` | `seat` |
"""

import re
from decimal import Decimal
from typing import Any

from rence_lightning.rewards.grading.notation import one_notation
from rence_lightning.rewards.grading.structure import same_structure
from rence_lightning.rewards.grading.tolerance import within_tolerance

MAX_CHARACTERS = 1_000
"""Answers longer than this are wrong unless they are equal as strings. No final answer of a benchmark comes near it,
and what is longer costs seconds of parsing."""

_MIN_WORD = 4
"""Letters alone, from this length on, are a word and not a product of variables. math-verify reads every word as a
product, for which `listen` equals `silent`."""

_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\{([^{}\\]*)\}")
_SIZE = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_FREE_SPACE = re.compile(r"(?<![0-9A-Za-z\\]) |(?<!\\) (?![0-9A-Za-z])")
_INTEGER = re.compile(r"([+-]?)([0-9]++|[0-9]{1,3}(?:,[0-9]{3})++)")
_FAMILY = re.compile(r"(?:,|\\quad|\\text\{ (?:for|where) [^{}]*\})?\s?[a-z] ?\\in ?\\mathbb\{?Z\}?$")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")
_AS_GOOD_AS_EQUAL = 1e-20
_NAMED = re.compile(r"^[A-Za-z]\s?=\s?")
_CHOICE = re.compile(r"\(?[A-J]\)?")
_CHOICES = re.compile(r"(?<![A-Za-z\\])([A-J])(?![A-Za-z])")
_CHOSEN = re.compile(r"(?:\\text(?:bf|rm)?\{)?\s?\(?([A-J])\)[\s.:}]+\S")
_DANGLING = ("+", "-", "*", "/", "=", "^", "_", "<", ">", ",")
_ARTICLE = re.compile(r"(?:an?|the) ")
_WORD = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)*+")


def quick_verdict(gold: str, prediction: str) -> bool | None:
    """Judge what needs no algebra, in time linear in the strings' length.

    Returns:
        True when the answers are equal up to spelling (blanks, math delimiters, a full stop, a text command). False
        when the prediction is empty, when both are different plain integers or different words, or when either is
        longer than `MAX_CHARACTERS`. None when only `equivalent` can tell.
    """
    left, right = _spelling(gold), _spelling(prediction)
    if not right:
        return False
    if left == right:
        return True
    left_integer, right_integer = _integer(left), _integer(right)
    if left_integer is not None and right_integer is not None:
        return left_integer == right_integer
    if max(len(gold), len(prediction)) > MAX_CHARACTERS:
        return False
    if _is_word(left) and _is_word(right):
        left, right = (_ARTICLE.sub("", answer.casefold(), count=1) for answer in (left, right))
        return left.replace(" ", "").removesuffix("s") == right.replace(" ", "").removesuffix("s")
    return None


def equivalent(gold: str, prediction: str) -> bool:
    """Judge with computer algebra, without any limit of time or memory: only for a process that may be killed.

    math-verify's own limits are alarm signals, which work on a main thread only; they are switched off.

    Returns:
        Whether the prediction equals the reference; False as well where either cannot be understood.
    """
    left, right = one_notation(_trimmed(gold)), one_notation(_trimmed(prediction))
    quick = quick_verdict(left, right)
    if quick is not None:
        return quick
    if (one := _FAMILY.search(left)) and (other := _FAMILY.search(right)):  # `, k \in \mathbb{Z}` on both
        left, right = left[: one.start()], right[: other.start()]
    if r"\pm" in left + right:  # the variable of two solutions
        left, right = (_NAMED.sub("", answer) for answer in (left, right))
    if _CHOICE.fullmatch(left) and _CHOSEN.match(right):  # `(C) 12` names the choice and what it says
        return [left.strip("()")] == _CHOICES.findall(right)
    if right.endswith(_DANGLING):
        return False
    verdict = within_tolerance(_trimmed(gold), right, _value)
    if verdict is None:
        left, right = _both_signs(left), _both_signs(right)
        verdict = same_structure(left, right, _leaf)
    return _math_verify(left, right) if verdict is None else verdict


def _both_signs(answer: str) -> str:
    r"""`1 \pm x` as the two values that it stands for."""
    if answer.count(r"\pm") != 1 or "," in answer:
        return answer
    before, after = answer.split(r"\pm")
    return f"{before}+{after}, {before}-{after}"


def _leaf(gold: str, prediction: str) -> bool:
    """Whether two parts of answers are the same."""
    quick = quick_verdict(gold, prediction)
    return _math_verify(gold, prediction) if quick is None else quick


def _value(expression: str) -> Decimal | None:
    """The real number that an expression is, or the right-hand side of an equation."""
    number = _constant(expression)
    try:
        return Decimal(str(number)) if number is not None else None
    except ArithmeticError:  # it is complex
        return None


def _constant(expression: str) -> Any:
    """The number, perhaps complex, that an expression is to 30 digits; None where it is none."""
    import sympy

    try:
        parsed = _parsed(expression)[0]
        value = getattr(parsed, "rhs", parsed)
        number = value.subs({symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"}).evalf(30)
    except Exception:  # not an expression, or not to be computed
        return None
    return number if isinstance(number, sympy.Expr) and number.is_number and number.is_finite else None


def _same_constant(gold: str, prediction: str) -> bool:
    """Whether both are numbers, and the same to 20 digits: for complex ones, which math-verify compares as symbols."""
    left, right = _constant(gold), _constant(prediction)
    if left is None or right is None:
        return False
    return bool(abs(left - right) <= abs(left) * _AS_GOOD_AS_EQUAL)


def _parsed(answer: str) -> Any:
    """What math-verify makes of an answer: a list of readings, the best first."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse("\\boxed{" + answer + "}", targets, parsing_timeout=None)


def _math_verify(gold: str, prediction: str) -> bool:
    from math_verify import verify

    try:
        if verify(_parsed(_trimmed(gold)), _parsed(_trimmed(prediction)), timeout_seconds=None):
            return True
        return _IMAGINARY.search(f"{gold} {prediction}") is not None and _same_constant(gold, prediction)
    except Exception:  # a recursion limit, exhausted memory, a parser's bug: whatever it is, it is not the answer
        return False


def _trimmed(answer: str) -> str:
    """Drop blanks, one pair of math delimiters and a full stop around an answer."""
    answer = answer.strip().removesuffix(".").rstrip()
    for opening, closing in _DELIMITERS:
        inside = answer[len(opening) : len(answer) - len(closing)]
        # `$1$ and $2$` is not one formula: its first and last delimiters do not belong together.
        if answer == opening + inside + closing and opening not in inside and closing not in inside:
            answer = inside.strip()
            break
    return answer.removesuffix(".").rstrip()


def _spelling(answer: str) -> str:
    """One spelling for answers that differ in typesetting only."""
    answer = _trimmed(answer)
    for command, plain in ((r"\!", ""), ("{,}", ","), (r"\dfrac", r"\frac"), (r"\tfrac", r"\frac")):
        answer = answer.replace(command, plain)
    answer = _SIZE.sub("", answer)
    text = _TEXT.fullmatch(answer)
    return _FREE_SPACE.sub("", " ".join((text.group(1) if text else answer).split()))


def _integer(answer: str) -> str | None:
    """The canonical digits of a plain integer. Never converted to `int`, which is quadratic and limited in length."""
    match = _INTEGER.fullmatch(answer)
    if match is None:
        return None
    digits = match.group(2).replace(",", "").lstrip("0")
    return ("-" if match.group(1) == "-" else "") + digits if digits else "0"


def _is_word(answer: str) -> bool:
    return len(answer) >= _MIN_WORD and _WORD.fullmatch(answer) is not None
