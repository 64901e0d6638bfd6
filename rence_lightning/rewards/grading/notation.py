"""Rewrites answers in one notation before they are compared, by patterns alone; docs/evaluation.md has examples."""

import re

_SYMBOLS = str.maketrans(
    {"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": r"\times ", "·": r"\cdot ", "°": r"^\circ "}
    | {"π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "\N{UNION}": r"\cup ", "∈": r"\in "}
    | {"∅": r"\emptyset ", "²": "^2", "³": "^3"}
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", "")  # they have no width
    | dict.fromkeys("\u00a0\u2009\u202f~", " ")
    | {sign: rf"\frac{{{over}}}{{{under}}}" for sign, over, under in ("½12", "⅓13", "⅔23", "¼14", "¾34", "⅕15", "⅛18")}
)
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"√\s?(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\color(?:\[\w+\])?\{[\w,.]+\}|\\textcolor\{\w+\}(?=\{)", ""),
        (r"\^\s?(?:\\circ|\{\\circ\})|\\degree(?![A-Za-z])", ""),
        (r"(?<=\d)\s?(?:\\text\{\s?degrees?\}|degrees?)$", ""),
        (r"(?<=\d)\s?(?:\\text\{\s?dollars?\}|dollars?)$", ""),
        (r"(?<=[\d}])\s?(?:\\(?:text|mathrm)\{\s?(?:percent|\\?%)\}|percent)$", r"\\%"),
        (r"^\\displaystyle(?![A-Za-z])\s?", ""),
        (r"\\(?:math(?:bf|it|sf)|boldsymbol|bm)\{([^{}]*)\}", r"\1"),
        (r"\\mathrm\{([A-Za-z]|[\d.,]+)\}", r"\1"),
        (r"(?<![A-Za-z\\])sqrt\s?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\d)}])\(([^()]*)\)/\(([^()]*)\)", r"\\frac{\1}{\2}"),
        (r"\\text\{\s?([:;,])\s?\}", r"\1"),
        (r"(?<=\d)\s?(?:\^\s?\{?)?\\(?:text|mathrm)\{\s?(?:st|nd|rd|th)\}\}?$|(?<=\d)(?:st|nd|rd|th)$", ""),
        (r"(?<![\d.,}])1\s?i$", "i"),
        (r"\\log_\{?e\}?(?![A-Za-z0-9])", r"\\ln"),
        (r"\\left\s?\\langle|\\langle(?![A-Za-z])", "("),
        (r"\\right\s?\\rangle|\\rangle(?![A-Za-z])", ")"),
        (r"(?<=\d)(?:\\,|\{,\}|\\ )(?=\d{3}(?!\d))", ""),
        (r"(?<=\d)\\[,;:!]\s?(?=[A-Za-z]$)", ""),
        (r"(?<=\d)\.(?=[/}]|$)", ""),
        (r"^([+-]?\d{1,3}(?: \d{3})++)(?=[.]\d|$)", lambda match: match[1].replace(" ", "")),
        (r"^([+-]?\d+) (\d+)/(\d+)$", r"\1\\frac{\2}{\3}"),
        (r"\\frac\s?\\pi\s?(\d)", r"\\frac{\\pi}{\1}"),
        (r"\\equiv(?![A-Za-z])", "="),
        (r"\\[pb]mod(?![A-Za-z])", r"\\mod"),
        (r"(?:\\[,;:! ]|[\s,;])++$", ""),
        (r"\\varnothing|\\\{\s?\\\}", r"\\emptyset"),
        (r"\\(?:geqslant|geq|ge)(?![A-Za-z])", r"\\ge "),
        (r"\\(?:leqslant|leq|le)(?![A-Za-z])", r"\\le "),
        (r"\\neq?(?![A-Za-z])\s?", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
    )
]
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,8})(?![\w.^])")
_REPEATING = re.compile(r"(\d{1,20})\.(\d{0,20})\\(?:overline|bar|dot)\{?(\d{1,20})\}?")
_ALL_REALS = re.compile(
    r"\\mathbb\{?R\}?|[A-Za-z]\s?\\in\s?\\mathbb\{?R\}?|(?:\\text\{)?\s?all real(?: number)?s(?: [a-z])?\s?\}?",
    re.IGNORECASE,
)
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_SET_BUILDER = re.compile(r"\\\{\s?[A-Za-z](?:\s?\\in\s?\\mathbb\{?R\}?)?\s?(?::|\\mid|\\colon|\\vert|\|)([^|]+)\\\}")
_COLUMN = re.compile(r"\\begin\{([pb]?matrix)\}([^&]*)\\end\{\1\}")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_PREAMBLE = re.compile(
    r"(?:\\text(?:bf|rm)?\{\s?)?(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final )?answer(?: is:?|:)\s*\}?\s*",
    re.IGNORECASE,
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(
    r"(\d+(?:\.\d+)?|(?<![A-Za-z\\])[a-z])\s?(?:\^\s?(?:\\circ|\{\s?\\circ\s?\})|\\degree)(?![A-Za-z])"
)


def one_notation(answer: str) -> str:
    """Rewrite an answer in the notation of this module's table, in time linear in its length."""
    answer = answer.translate(_SYMBOLS).strip()
    if preamble := _PREAMBLE.match(answer):
        answer = answer[preamble.end() :]
        if answer.count("}") > answer.count("{"):  # `\\text{The answer is 5}`
            answer = answer.removesuffix("}")
    if boxed := _BOXED.fullmatch(answer):
        answer = boxed[1]
    if _TRIGONOMETRIC.search(answer):
        answer = _DEGREES.sub(r"\\frac{\1\\pi}{180}", answer)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = _REPEATING.sub(_fraction, answer)
    answer = _COLUMN.sub(_tuple, answer)
    if described := _SET_BUILDER.fullmatch(answer):
        answer = described[1].strip()
    if _ALL_REALS.fullmatch(answer):
        return r"(-\infty,\infty)"
    if (word := answer.removeprefix(r"\text{").removesuffix("}").strip().lower()) in _NUMBER_WORDS:
        return str(_NUMBER_WORDS.index(word))
    return _SCIENTIFIC.sub(lambda match: rf"{match[1]} \times 10^{{{int(match[2])}}}", answer).strip()


def _fraction(repeating: re.Match[str]) -> str:
    """A repeating decimal as a fraction."""
    whole, once, again = repeating.groups()
    denominator = (10 ** len(again) - 1) * 10 ** len(once)
    numerator = int(whole + once + again) - int(whole + once)
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _tuple(column: re.Match[str]) -> str:
    entries = [entry.strip() for entry in column[2].split(r"\\")]
    return f"({','.join(entries)})" if len(entries) > 1 else column[0]
