"""Compares the structure of answers that math-verify does not know: regions, units, bases and assignments.

Each rule returns whether two answers are equal, or None when they are not of its kind; `leaf` compares their parts.
docs/evaluation.md has examples.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

Leaf = Callable[[str, str], bool]

_SIZE = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_OR = re.compile(r"\\cup(?![A-Za-z])|\\lor(?![A-Za-z])|\\text\{\s?or\s?\}|(?<![A-Za-z\\])or(?![A-Za-z])")
_INTERVAL = re.compile(r"([\[(])(.+)([\])])")
_MEMBER = re.compile(r"[A-Za-z]\s?\\in(?![A-Za-z])")
_RELATION = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_ALL_BUT = re.compile(r"[A-Za-z]\s?\\ne\s(.+)|\\mathbb\{?R\}?\s?\\(?:setminus|backslash)\s?\\\{(.+)\\\}")
_ABSOLUTE = re.compile(r"(?:\||\\lvert)\s?[A-Za-z]\s?(?:\||\\rvert)\s?(<|>|\\le\s|\\ge\s)(.+)")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?:theta|alpha|beta|lambda)")
_ASSIGNMENT = re.compile(r"\(?([A-Za-z](?:_\{?\w+\}?)?)\)?=([^=]+)")
_CHAIN = re.compile(r"[A-Za-z](?:=[A-Za-z])+=[^=A-Za-z][^=]*")
_AND = re.compile(r"\\text\{\s?and\s?\}|(?<![A-Za-z\\])and(?![A-Za-z])|\\quad(?![A-Za-z])|;")
_DECIMAL = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:\s?\\(?:times|cdot)\s?10\s?\^\s?(?:\{\s?)?([+-]?\d{1,4})(?:\s?\})?)?"
)
_ENDLESS = re.compile(r"(\d\.\d+)\s?(?:\\[lc]?dots|\.{3}|…)$")
_DOTS = re.compile(r"\\(?:[lc]dots|dots[bcimo]?)(?![A-Za-z])|\.{3}|…")
_MODULUS = re.compile(r"\s?\(?\s?\\?(?:text\{\s?)?mod\s?\}?\s?\{?\s?(\d+)\s?\}?\s?\)?$")
_BASE = re.compile(r"([0-9A-Fa-f]+)_\{?(\d+)\}?")
_UNIT = re.compile(
    r"(?<=[\d})])(?:\\[,;! ]|\s|~)*(?:\\(?:text|mathrm|textrm|mbox)\{\s*([A-Za-z/. ]+?)\s*\}|\s([A-Za-z/]+))"
    r"(?:\^\{?([23])\}?)?$"
)

_UNITS = (
    "mm millimeter millimetre|cm centimeter centimetre|m meter metre|km kilometer kilometre|in inch inche|ft foot feet"
    "|yd yard|mi mile|s sec second|min minute|h hr hour|day|week|month|year yr|g gram|kg kilogram|mg milligram|lb pound"
    "|oz ounce|l liter litre|ml milliliter millilitre|m/s|km/h kmh kph|mph|cent|dollar"
)
_CANONICAL = {name: names.split()[0] for names in _UNITS.split("|") for name in names.split()}


def same_structure(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    """The verdict of the first rule that applies, or None if none does."""
    for rule in _RULES:
        if (verdict := rule(gold, prediction, leaf)) is not None:
            return verdict
    return None


def _same_residue(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    """The remainders, and the moduli where the reference has one."""
    left, right = _MODULUS.search(gold), _MODULUS.search(prediction)
    if right is None:
        return None
    same = left is None or left[1] == right[1]
    return same and leaf(gold[: left.start()] if left else gold, prediction[: right.start()])


def _same_sequence(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    """Sequences and sums with dots, which math-verify leaves out: term by term, in either direction but for tuples."""
    answers = [_DOTS.sub(" . ", _SIZE.sub("", _ENDLESS.sub(r"\1", each))) for each in (gold, prediction)]
    if not any(" . " in each for each in answers):
        return None
    inner = [each.strip().removeprefix(r"\{").removesuffix(r"\}").strip("()") for each in answers]
    for separator, pair in ((",", inner), ("+", answers)):
        left, right = (split_parts(each, separator) for each in pair)
        if len(left) == len(right) > 1:
            orders = (right,) if gold.startswith("(") else (right, right[::-1])
            pairs = [list(zip(left, order, strict=True)) for order in orders]
            return any(all(a == b or ("." not in (a, b) and leaf(a, b)) for a, b in each) for each in pairs)
    return all(" . " in each for each in answers) and leaf(*(each.replace(" . ", r" \Omega ") for each in answers))


def _same_decimal(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    """Decimals and powers of ten: one must round to the other, and six digits must agree.

    math-verify rounds to six decimal *places*, so that 2e-19 would equal 3e-19.
    """
    left, right = decimal_of(gold), decimal_of(prediction)
    if left is None or right is None:
        return None
    if abs(left - right) > abs(left) * Decimal("1e-6"):
        return False
    # 0.1234567 and 0.1234568 are within this bound, but neither rounds to the other.
    places = Decimal(1).scaleb(max(int(left.as_tuple().exponent), int(right.as_tuple().exponent)))
    try:
        return left.quantize(places) == right.quantize(places)
    except InvalidOperation:  # more digits than decimal arithmetic keeps
        return left == right


def decimal_of(answer: str) -> Decimal | None:
    """The value of a decimal with or without a power of ten; None for anything else."""
    match = _DECIMAL.fullmatch(answer)
    return Decimal(f"{match[1]}e{match[2] or 0}") if match is not None else None


def _same_base(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    matches = _BASE.fullmatch(gold), _BASE.fullmatch(prediction)
    left, right = ((match[1].lstrip("0").upper(), match[2]) if match else None for match in matches)
    return left == right if left or right else None


def _other_units(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    """False for different units of the table. A missing or unknown unit decides nothing."""
    left, right = _unit(gold), _unit(prediction)
    return False if left is not None and right is not None and left != right else None


def _unit(answer: str) -> tuple[str, str] | None:
    match = _UNIT.search(answer)
    if match is None:
        return None
    name, power = (match[1] or match[2]).strip().rstrip(".").lower(), match[3] or "1"
    for word, exponent in (("square ", "2"), ("sq ", "2"), ("cubic ", "3")):
        if name.startswith(word):
            name, power = name.removeprefix(word), exponent
    unit = _CANONICAL.get(name) or _CANONICAL.get(name.removesuffix("s"))
    return (unit, power) if unit is not None else None


class Interval(NamedTuple):
    """The numbers from `low` to `high`; an end that is not closed does not belong to them."""

    low: str
    high: str
    low_closed: bool
    high_closed: bool


def _same_region(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    left, right = _region(gold), _region(prediction)
    # `(1,2)` may also be a pair: it is an interval where the other answer can be nothing else.
    if left is None or right is None or not (_surely(gold) or _surely(prediction)):
        return None
    for one in left:  # each has a partner of its own on the right, in any order, and none is left over
        partner = next((other for other in right if _same_interval(one, other, leaf)), None)
        if partner is None:
            return False
        right.remove(partner)
    return not right


def _surely(answer: str) -> bool:
    bare = _SIZE.sub("", answer)
    relation = _RELATION.search(bare) or _ALL_BUT.fullmatch(bare.strip()) or _OR.search(bare)
    return bool(relation) or "infty" in bare or bare.count("[") != bare.count("]")


def _same_interval(one: Interval, other: Interval, leaf: Leaf) -> bool:
    closed = (one.low_closed, one.high_closed) == (other.low_closed, other.high_closed)
    return closed and all(a == b or leaf(a, b) for a, b in ((one.low, other.low), (one.high, other.high)))


def _region(answer: str) -> list[Interval] | None:
    """The intervals of a union, or of inequalities joined by `or`."""
    answer = _MEMBER.sub("", _SIZE.sub("", answer)).strip()
    parts = [_intervals(part.strip()) for part in _OR.split(answer)]
    return None if any(part is None for part in parts) else [each for part in parts for each in part or []]


def _intervals(text: str) -> list[Interval] | None:
    """The intervals of one part of a region: an interval, an inequality, all but a number, a bounded absolute value."""
    if single := _interval(text) or _inequality(text):
        return [single]
    if hole := _ALL_BUT.fullmatch(text):
        point = (hole[1] or hole[2]).strip()
        return None if split_parts(point) != [point] else _outside(point, point, closed=False)
    if absolute := _ABSOLUTE.fullmatch(text):
        bound, closed = absolute[2].strip(), "e" in absolute[1]
        negative = f"-{bound}" if bound.isalnum() else f"-({bound})"
        if absolute[1].strip() in ("<", r"\le"):
            return [Interval(negative, bound, closed, closed)]
        return _outside(negative, bound, closed)
    return None


def _outside(low: str, high: str, closed: bool) -> list[Interval]:
    return [Interval(r"-\infty", low, False, closed), Interval(high, r"\infty", closed, False)]


def _interval(text: str) -> Interval | None:
    match = _INTERVAL.fullmatch(text)
    if match is None or len(ends := split_parts(match[2])) != 2:
        return None
    return Interval(_end(ends[0]), _end(ends[1]), match[1] == "[", match[3] == "]")


def _inequality(text: str) -> Interval | None:
    parts = [part.strip() for part in _RELATION.split(text)]
    if any(not part or "=" in part for part in parts):
        return None
    if len(parts) == 3:
        left, relation, right = parts
        if _VARIABLE.fullmatch(right):
            left, relation, right = right, _TURNED[relation], left
        if not _VARIABLE.fullmatch(left):
            return None
        closed = "e" in relation
        if relation in ("<", r"\le"):
            return Interval(r"-\infty", _end(right), False, closed)
        return Interval(_end(right), r"\infty", closed, False)
    if len(parts) == 5 and _VARIABLE.fullmatch(parts[2]):
        low, first, _, second, high = parts
        if first in (">", r"\ge"):
            low, first, second, high = high, _TURNED[second], _TURNED[first], low
        if first in ("<", r"\le") and second in ("<", r"\le"):
            return Interval(_end(low), _end(high), "e" in first, "e" in second)
    return None


_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


def _end(text: str) -> str:
    text = text.strip()
    return r"\infty" if text == r"+\infty" else text


def _same_assignments(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    left, right = _assignments(gold), _assignments(prediction)
    if left and right:
        return left.keys() == right.keys() and all(leaf(left[name], right[name]) for name in left)
    named = left or right
    if named is None:
        return None
    values = split_parts(_AND.sub(",", (prediction if left else gold).strip().removeprefix("(").removesuffix(")")))
    if len(values) != len(named) or any("=" in value for value in values):
        return None
    return all(leaf(a, b) if left else leaf(b, a) for a, b in zip(named.values(), values, strict=True))


def _assignments(answer: str) -> dict[str, str] | None:
    """The values of two or more different names, in the order of the answer; None for any other answer."""
    parts = split_parts(_AND.sub(",", _SIZE.sub("", answer)))
    if len(parts) == 1 and _CHAIN.fullmatch(parts[0].replace(" ", "")):  # `x=y=1`
        *names, value = parts[0].replace(" ", "").split("=")
        return dict.fromkeys(names, value)
    found = [_ASSIGNMENT.fullmatch(part.replace(" ", "")) for part in parts]
    if len(found) < 2 or any(match is None for match in found):
        return None
    named = {match[1]: match[2] for match in found if match is not None}
    return named if len(named) == len(found) else None


def split_parts(text: str, separator: str = ",") -> list[str]:
    """Splits a text at the separators that are outside of brackets."""
    parts, depth = [""], 0
    for symbol in text:
        depth += (symbol in "([{") - (symbol in ")]}")
        if symbol == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += symbol
    return [stripped for part in parts if (stripped := part.strip())]


_RULES = (_same_residue, _same_sequence, _same_decimal, _same_base, _same_region, _same_assignments, _other_units)
