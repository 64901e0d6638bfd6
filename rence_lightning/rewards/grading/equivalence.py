"""Decides whether two final answers are equal, by exact checks, one notation, structure, and math-verify at last.

What counts as equal is math-verify's policy, with the reference answer first, because `verify` is not symmetric
(https://github.com/huggingface/Math-Verify). docs/evaluation.md lists by example what graders differ in.
"""

import re
from decimal import Decimal
from typing import Any

from rence_lightning.rewards.grading.constants import same_value, verify_relatively
from rence_lightning.rewards.grading.notation import one_notation
from rence_lightning.rewards.grading.structure import bare, decimal_of, same_quantity, same_structure, split_parts

MAX_CHARACTERS = 1_000
"""Number of characters above which an answer is wrong unless it equals the reference as a string. No final answer of a
benchmark is nearly as long, and longer ones take seconds to parse."""

_MIN_WORD = 4
"""Number of letters from which on letters alone are a word and not a product of variables. math-verify reads every word
as a product, so that `listen` equals `silent`."""

_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\{([^{}\\]*)\}")
_SIZE = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_FREE_SPACE = re.compile(r"(?<![0-9A-Za-z\\]) |(?<!\\) (?![0-9A-Za-z])")
_INTEGER = re.compile(r"([+-]?)([0-9]++|[0-9]{1,3}(?:,[0-9]{3})++)")
_FAMILY = re.compile(r"(?:[, ]|\\q?quad|\\text\{\s?(?:for|where)[^{}]*\})*\(?[a-z] ?\\in ?\\mathbb\{?Z\}?\)?$")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?"
_WITH_TOLERANCE = re.compile(rf"({_NUMBER})\s?\\pm\s?({_NUMBER})")
_SEVERAL = re.compile(
    r"[<>;]|!=|\\(?:[lgn]e|not|neg|lor|q?quad|approx)(?![A-Za-z])|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
)
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|\\text")
_NAMED = re.compile(r"(?<![A-Za-z\\])[A-Za-z]|_|\\(?:text|mod|pi ?\()")
_CHOICE = re.compile(r"\(?[A-J]\)?")
_CHOICES = re.compile(r"(?<![A-Za-z\\])([A-J])(?![A-Za-z])")
_CHOSEN = re.compile(
    r"(?:\\text(?:bf|rm)?\{)?\s?\(?([A-J])(?:\)(?:[\s.:}]|\\\s)+|\}?[.:][\s}]+|\s?\\text\{\s?(?=\())(?=\S)"
)
_APART = re.compile(r"(?:^|[=,(+-])\s?[\d.]+(?:[ \"'$]|\\\$|\\q?quad|\\[lc]?dots(?![A-Za-z]))+\d|\.\d+\.\d")  # `1 2`
_ARTICLE = re.compile(r"(?:an?|the) ")
_WORD = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)*+")


def quick_verdict(gold: str, prediction: str) -> bool | None:
    """Judge without algebra, in time linear in the length of the strings.

    Returns:
        True when the answers are equal up to spelling (blanks, math delimiters, a full stop, a text command). False
        when the prediction is empty, when both are different plain integers or different words, or when either is
        longer than `MAX_CHARACTERS`. None when only `equivalent` can decide.
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
    shortest = 3 if (left + right).isupper() else _MIN_WORD
    if min(len(left), len(right)) >= shortest and _WORD.fullmatch(left) and _WORD.fullmatch(right):
        left, right = (_ARTICLE.sub("", answer.casefold(), count=1) for answer in (left, right))
        return left.replace(" ", "").removesuffix("s") == right.replace(" ", "").removesuffix("s")
    return None


def equivalent(gold: str, prediction: str) -> bool:
    """Judge with computer algebra: only for a process that may be killed, and that `guard` protects.

    There is no limit of time or memory here. math-verify's own limits are alarm signals, which work on a main thread
    only, and are switched off.

    Returns:
        Whether the prediction equals the reference; False also where one of them cannot be understood.
    """
    left, right = one_notation(_trimmed(gold)), one_notation(_trimmed(prediction))
    quick = quick_verdict(left, right)
    if quick is not None:
        return quick
    if (one := _FAMILY.search(left)) and (other := _FAMILY.search(right)):  # `, k \in \mathbb{Z}` on both
        left, right = left[: one.start()], right[: other.start()]
    if (chosen := _CHOSEN.match(right)) and not _CHOSEN.match(left):  # `(C) 12`: the letter of a choice and its content
        if _CHOICE.fullmatch(left) or len(_CHOICES.findall(right)) > 1:
            return [left.strip("()")] == _CHOICES.findall(right)
        right = right[chosen.end() :]
    stated = _right_hand_side(right)
    if _APART.search(right) or stated is None:
        return False
    right = right if "=" in left else stated
    verdict = _within_tolerance(_trimmed(gold), right)
    if verdict is None:
        verdict = same_quantity(left, right, _leaf)
    if verdict is None:
        left, right = _both_signs(bare(left)), _both_signs(bare(right, letters=not _LETTER.search(left)))
        verdict = same_structure(left, right, _leaf)
    return _leaf(left, right) if verdict is None else verdict


def _right_hand_side(answer: str) -> str | None:
    """What `P(A) = 0.5` states; None for an equation of numbers that differ by more than roundings, such as `6 = 5`."""
    members = split_parts(answer.replace(r"\approx", "="), "=")
    numbers = [each for each in members if re.search(r"\d", each) and not _NAMED.search(each)]
    values = [value for each in numbers if (value := _value(each)) is not None] if len(numbers) > 1 else []
    if values and max(values) - min(values) > max(map(abs, values)) / 100:
        return None
    several = len(members) != 2 or _SEVERAL.search(answer) or split_parts(members[0])[1:]
    return answer if several else members[1]


def _within_tolerance(gold: str, prediction: str) -> bool | None:
    r"""Whether a number, with or without a unit, is within the tolerance of a reference such as `1.6 \pm 0.05`.

    None where the reference states no tolerance. That of an integer is none: `3 \pm 1` stands for two values.
    """
    stated = _WITH_TOLERANCE.fullmatch(gold)
    if stated is None or set(".eE").isdisjoint(stated[2]):
        return None
    prediction = bare(prediction)
    number = decimal_of(prediction)
    if number is None:
        number = _value(prediction)
    return number is not None and abs(number - Decimal(stated[1])) <= Decimal(stated[2])


def _both_signs(answer: str) -> str:
    r"""Write `1 \pm x` as the two values that it stands for."""
    if answer.count(r"\pm") != 1 or "," in answer:
        return answer
    before, after = answer.split(r"\pm")
    return f"{before}+{after}, {before}-{after}"


def _leaf(gold: str, prediction: str) -> bool:
    """Whether two parts of answers are equal."""
    quick = quick_verdict(gold, prediction)
    return _math_verify(gold, prediction) if quick is None else quick


def _value(expression: str) -> Decimal | None:
    """The real value of an expression, or of the right-hand side of an equation; None where there is none."""
    try:
        return Decimal(str(_constant(expression).evalf(30)))
    except Exception:  # it is no number, or a complex one, or cannot be computed
        return None


def _constant(expression: str) -> Any:
    """The number that an expression stands for, which may be complex.

    Raises:
        Exception: It is not a finite number.
    """
    import sympy

    parsed = _parsed(expression)[0]
    value = getattr(parsed, "rhs", parsed)
    number = value.subs({symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"})
    if not (number.is_number and number.evalf(30).is_finite):
        raise ValueError(f"{expression} is not a number")
    return number


def _parsed(answer: str) -> Any:
    """The readings of an answer by math-verify, the best one first.

    It reads the whole answer or nothing. By default it would take the last number of what it cannot read, and leave out
    text and variables at the end as units, so that `5` would equal `5t` and `5 \\text{ feet } 6 \\text{ inches}`.
    """
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    spelling = NormalizationConfig(malformed_operators=True, nits=True)
    target = LatexExtractionConfig(False, boxed_match_priority=0, normalization_config=spelling)
    return parse("\\boxed{" + answer + "}", [target], parsing_timeout=None)


def _math_verify(gold: str, prediction: str) -> bool:
    """Judges by math-verify, with values compared relatively, and complex numbers, which it compares as symbols."""
    try:
        if verify_relatively(_parsed(_trimmed(gold)), _parsed(_trimmed(prediction))):
            return True
        complex_numbers = bool(_IMAGINARY.search(f"{gold} {prediction}"))
        return complex_numbers and same_value(_constant(gold), _constant(prediction))
    except Exception:  # a recursion limit, exhausted memory, a bug of a parser: the answer is not understood
        return False


def plain_math_verify(gold: str, prediction: str) -> bool:
    """Judges by math-verify alone, without the rules of this module: only for a process that may be killed."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    try:
        left, right = (parse(rf"\boxed{{{answer}}}", targets, parsing_timeout=None) for answer in (gold, prediction))
        return bool(verify(left, right, timeout_seconds=None))
    except Exception:  # as above
        return False


def _trimmed(answer: str) -> str:
    """Remove blanks, one pair of math delimiters and a full stop around an answer."""
    answer = answer.strip().removesuffix(".").rstrip()
    for opening, closing in _DELIMITERS:
        inside = answer[len(opening) : len(answer) - len(closing)]
        # `$1$ and $2$` is not one formula: its first and last delimiters do not belong together.
        if answer == opening + inside + closing and opening not in inside and closing not in inside:
            answer = inside.strip()
            break
    return answer.removesuffix(".").rstrip()


def _spelling(answer: str) -> str:
    """Give answers that differ only in typesetting the same spelling."""
    answer = _trimmed(answer)
    for command, plain in ((r"\!", ""), ("{,}", ","), (r"\dfrac", r"\frac"), (r"\tfrac", r"\frac")):
        answer = answer.replace(command, plain)
    answer = _SIZE.sub("", answer)
    text = _TEXT.fullmatch(answer)
    return _FREE_SPACE.sub("", " ".join((text[1] if text else answer).split()))


def _integer(answer: str) -> str | None:
    """The canonical digits of a plain integer, or None. `int` would take quadratic time and is limited in length."""
    match = _INTEGER.fullmatch(answer)
    if match is None:
        return None
    digits = match[2].replace(",", "").lstrip("0")
    return match[1].removeprefix("+") + digits if digits else "0"
