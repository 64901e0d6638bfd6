"""Compares the structure of answers that math-verify does not know: regions, units, bases and assignments.

Each rule returns whether two answers are equal, or None when they are not of its kind; `leaf` compares their parts.
docs/evaluation.md has examples.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

Leaf = Callable[[str, str], bool]

_OR = re.compile(r"\\cup(?![A-Za-z])|\\lor(?![A-Za-z])|\\text\{\s?or\s?\}|(?<![A-Za-z\\])or(?![A-Za-z])")
_INTERVAL = re.compile(r"([\[(])(.+)([\])])")
_MEMBER = re.compile(r"[A-Za-z]\s?\\in(?![A-Za-z])")
_RELATION = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_BOUNDED = re.compile(r"[<>(\[|]|\\[lgn]e|\\mathbb|\\emptyset")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?:theta|alpha|beta|lambda)")
_ASSIGNMENT = re.compile(r"\(?([A-Za-z](?:_\{?\w+\}?)?)\)?=([^=]+)")
_CHAIN = re.compile(r"[A-Za-z](?:=[A-Za-z])+=[^=A-Za-z][^=]*")
_AND = re.compile(r"\\text\{\s?and\s?\}|(?<![A-Za-z\\])and(?![A-Za-z])|\\quad(?![A-Za-z])|;")
_DECIMAL = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:\s?\\(?:times|cdot)\s?10\s?\^\s?(?:\{\s?)?([+-]?\d{1,4})(?:\s?\})?)?"
)
_DOTS = re.compile(r"\\(?:[lc]dots|dots[bcimo]?)(?![A-Za-z])|\.{3}|…")
_MODULUS = re.compile(r"\s?\(?\s?\\?(?:text\{\s?)?mod\s?\}?\s?\{?\s?(\d+)\s?\}?\s?\)?$")
_BASE = re.compile(r"([0-9A-Fa-f.]+)_\{?(\d+)\}?")
_TEXT = r"\\(?:text|mathrm|textrm|textnormal|mbox|operatorname)\s?\{ ?+"  # one way to match: many take 2^n steps
_UNITS = (
    "1 mm millimeter millimetre|10 cm centimeter centimetre|1000 m meter metre|1000000 km kilometer kilometre"
    ";1 in inch inche|12 ft foot feet|36 yd yard|63360 mi mile;1 month|12 year yr;1 cent|100 dollar usd;1 euro;1 unit"
    ";1 s sec second|60 min minute|3600 h hr hour|86400 d day|604800 week;1 ml milliliter millilitre|1000 l liter litre"
    ";1 mg milligram|1000 g gram|1000000 kg kilogram;1 oz ounce|16 lb pound;1 m/s;1 km/h kmh kph;1 mph;1 nm"
    ";1 c celsius;1 f fahrenheit;1 k kelvin;1 am a.m;1 pm p.m"
)
"""Units, those that are converted into one another in a group: how many of a common unit each one is, and its names."""

_CANONICAL = {
    name: (kind, int(unit[0]))
    for kind, group in enumerate(_UNITS.split(";"))
    for unit in map(str.split, group.split("|"))
    for name in unit[1:]
}
_WORDS = "|".join(sorted((name for name in _CANONICAL if 1 < len(name) < 4), key=len, reverse=True))
_LETTER_UNIT = re.compile(rf"(?<=\d)\s?(?:[mslghCF]|{_WORDS})$")
_PIECE = re.compile(
    rf" ?(\S.{{0,40}}?) ?(?:{_TEXT}([A-Za-z/. ]+?)(?:\s?and)? ?\}}|(?<=\d)\s?([A-Za-z][A-Za-z/.]+))"
    rf"(?:\^\{{?([23])\}}?)? ?(?:,|and|\\text\{{\s?and\s?\}})?"
)
_UNIT = re.compile(
    # Where a unit may begin: no words that change the value, nor digits and signs but those of powers.
    r"(?<=\S)(?= ?[\\/]|\s[A-Za-z])"
    r"(?![^,;}]*\b(?i:half|halves|quarter|thirds|(?:four|fif|six|seven|eigh|nin|ten)ths|squared"
    r"|(?:hundred|thousand|\w*illion)(?:th)?s?|cubed|factorial|(?:plus|minus|times|over) [a-z]|pi|or|not|[ikx])\b)"
    rf"(?:(?:(?: ?(?:\\cdot|/))? ?{_TEXT}"
    r"(?:[^\W\d_](?:\^?-?[1-9])?|[\s~.,:;()/*°'%$€£·-]|\\[, %$])*\}(?:\^\{?-?\d\}?)?)+"
    rf"|(?<=[\d)}}])\s(?:[A-Za-z]{{4,}}|(?:{_WORDS})(?![A-Za-z]))(?:[ /][A-Za-z]+)*(?:\^\{{?[23]\}}?)?)"
    rf"(?= ?(?:$|[,;)]|\\text\{{\s?(?:and|or)\s?\}}))"
)


def bare(answer: str, letters: bool = False) -> str:
    """An answer without the units of its numbers; only with `letters` those that may also be products, as in `5mg`."""
    without = _UNIT.sub("", _LETTER_UNIT.sub("", answer) if letters else answer)
    return without if re.search(r"\d|\\pi", without) else answer


def same_quantity(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    """Compares quantities in units of the table; None where one of them has no unit, or both have the same one."""
    left, right = _quantity(gold), _quantity(prediction)
    kinds = {kind for kind, *_ in left + right}
    if (
        not left
        or not right
        or (len(left) == len(right) == len({factor for *_, factor in left + right}) == 1 == len(kinds))
    ):
        return None
    one, other = ("+".join(f"({number})*({factor})" for _, number, factor in each) for each in (left, right))
    return len(kinds) == 1 and leaf(one, other)


def _quantity(answer: str) -> list[tuple[tuple[int, int], str, int]]:
    """The numbers of `5 feet 6 inches`, with their kinds and factors; empty for what is not numbers in known units."""
    if answer.startswith((r"\$", "$")):
        answer = answer.lstrip("\\$") + r"\text{dollar}"
    found = []
    for number, text, plain, exponent in _PIECE.findall(answer):
        name, power = (text or plain).strip().rstrip(".").lower(), int(exponent or 1)
        for word, dimension in (("square ", 2), ("sq ", 2), ("cubic ", 3)):
            if name.startswith(word):
                name, power = name.removeprefix(word), dimension
        kind, factor = _CANONICAL.get(name) or _CANONICAL.get(name.removesuffix("s")) or (-1, 0)
        found.append(((kind, power), number, factor**power))
    known = not _PIECE.sub("", answer).strip() and all(factor for *_, factor in found)
    return found if known else []


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
    remainder = prediction[: right.start()]
    if left is not None:
        return left[1] == right[1] and leaf(gold[: left.start()], remainder)
    digits = re.search(r"\d+$", remainder)
    return digits is not None and int(digits[0]) < int(right[1]) and leaf(gold, remainder)


def _same_sequence(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    """Sequences and sums with dots, which math-verify leaves out: term by term, in either direction but for tuples."""
    answers = [_DOTS.sub(" . ", each) for each in (gold, prediction)]
    if not any(" . " in each for each in answers):
        return None
    inner = [each.strip().removeprefix(r"\{").removesuffix(r"\}").strip("()") for each in answers]
    for separator, pair in ((",", inner), ("+", answers)):
        left, right = (split_parts(each, separator) for each in pair)
        if max(len(left), len(right)) > 1:
            orders = (right,) if gold.startswith("(") else (right, right[::-1])
            pairs = [list(zip(left, order, strict=True)) for order in orders if len(left) == len(right)]
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
        # math-verify reads an open interval as the pair of its ends.
        return False if left is not None and _surely(gold) and not _BOUNDED.search(prediction) else None
    for one in left:  # each has a partner of its own on the right, in any order, and none is left over
        partner = next((other for other in right if _same_interval(one, other, leaf)), None)
        if partner is None:
            return False
        right.remove(partner)
    return not right


def _surely(answer: str) -> bool:
    relation = _RELATION.search(answer) or _OR.search(answer)
    return bool(relation) or "infty" in answer or answer.count("[") != answer.count("]")


def _same_interval(one: Interval, other: Interval, leaf: Leaf) -> bool:
    closed = (one.low_closed, one.high_closed) == (other.low_closed, other.high_closed)
    return closed and all(a == b or leaf(a, b) for a, b in ((one.low, other.low), (one.high, other.high)))


def _region(answer: str) -> list[Interval] | None:
    """The intervals of a union, or of inequalities joined by `or`."""
    parts = [part.strip() for part in _OR.split(_MEMBER.sub("", answer))]
    intervals = [interval for part in parts if (interval := _interval(part) or _inequality(part))]
    return intervals if len(intervals) == len(parts) else None


def _interval(text: str) -> Interval | None:
    match = _INTERVAL.fullmatch(text)
    if match is None or len(ends := split_parts(match[2])) != 2:
        return None
    return Interval(ends[0], ends[1], match[1] == "[", match[3] == "]")


def _inequality(text: str) -> Interval | None:
    parts = [part.strip() for part in _RELATION.split(text)]
    variables = sum(map(bool, map(_VARIABLE.fullmatch, parts[::2])))
    if len(parts) not in (3, 5) or variables != 1 or any(not part or "=" in part for part in parts):
        return None
    if parts[1] in (">", r"\ge"):  # ascending
        parts = [{">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}.get(part, part) for part in reversed(parts)]
    if len(parts) == 3:
        parts = [r"-\infty", "<", *parts] if _VARIABLE.fullmatch(parts[0]) else [*parts, "<", r"\infty"]
    low, first, variable, second, high = parts
    if not _VARIABLE.fullmatch(variable) or {first, second} - {"<", r"\le"}:
        return None
    return Interval(low, high, "e" in first, "e" in second)


def _same_assignments(gold: str, prediction: str, leaf: Leaf) -> bool | None:
    left, right = _assignments(gold), _assignments(prediction)
    if left and right:
        return left.keys() == right.keys() and all(leaf(left[name], right[name]) for name in left)
    named = left or right
    if named is None or len({name[0] for name in named}) == 1:  # `x_1 = 2, x_2 = 1` are roots in any order
        return None
    values = split_parts(_AND.sub(",", (prediction if left else gold).strip().removeprefix("(").removesuffix(")")))
    if len(values) != len(named) or any("=" in value for value in values):
        return None
    return all(leaf(a, b) if left else leaf(b, a) for a, b in zip(named.values(), values, strict=True))


def _assignments(answer: str) -> dict[str, str] | None:
    """The values of two or more different names, in the order of the answer; None for any other answer."""
    parts = split_parts(_AND.sub(",", answer))
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


_RULES = (_same_residue, _same_sequence, _same_decimal, _same_base, _same_region, _same_assignments)
