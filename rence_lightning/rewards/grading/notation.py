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


def _fraction(repeating: re.Match[str]) -> str:
    """A repeating decimal as a fraction."""
    whole, once, again = repeating.groups()
    denominator = (10 ** len(again) - 1) * 10 ** len(once)
    numerator = int(whole + once + again) - int(whole + once)
    return rf"\frac{{{numerator}}}{{{denominator}}}"


_BRACKETS = {"langle": "(", "rangle": ")", "lt": "<", "gt": ">"}
_POWERS = {"th": 3, "m": 6, "b": 9, "tr": 12}
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d)(?:\\[,; ]|\{,\}|,\\!)(?=\d{3}(?!\d))|\\!", ""),
        (r"(?:(?<!\\)\\[,;: ]|\s)+", " "),
        (r"√\s?(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\color(?:\[\w+\])?\{[\w,.]+\}|\\textcolor\{\w+\}(?=\{)", ""),
        (r"^[^=]*\\circ\}? ?=(?=[^=]*\\pi)", ""),
        (r"\^\s?(?:\\circ|\{\\circ\})|\\degree(?![A-Za-z])", ""),
        (r"(?<=[\d}])\s?(?:\\(?:text|mathrm)\{\s?(?:percent|\\?%)\}|percent)$", r"\\%"),
        (r"^\\displaystyle(?![A-Za-z])\s?|^(?:[A-Za-z]\s?)?\\approx\s?|^=\s?", ""),
        (r"^\\boxed\{([^{}]*)\}$|^\\text\{(\d[^{}]*)\}$", r"\1\2"),
        (
            r"(\\(?:text|mathrm)\{)?\s?(th|m|b|tr)(?:ousand|illion)(?![a-z])\s?",
            lambda match: rf" \times 10^{{{_POWERS[match[2]]}}} {match[1] or ''}",
        ),
        (r"^[^:]+(?::[^:]+){2,}$", lambda match: f"({match[0].replace(':', ',')})"),
        (r"(?<![A-Za-z])([A-Za-z])('+)", lambda match: f"{match[1]}_{{{'p' * len(match[2])}}}"),
        (r"\\(?:math(?:bf|it|sf)|boldsymbol|bm)\{([^{}]*)\}", r"\1"),
        (r"\\(?:mathrm|text)\{([dei]|[\d.,]+)\}", r"\1"),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (
            r"(?:\\(?:text|mathrm|operatorname)\{(ln|log|sin|cos|tan)\}|(?<![A-Za-z\\])(ln|log|sin|cos|tan)(?=[\s(]))",
            r"\\\1\2 ",
        ),
        (r"(?<=[A-Za-z)])\.\s?\}$", "}"),
        (r"(?i:(?:\\text\{)?\s?does not exist\s?\}?)", r"\\text{DNE}"),
        (r"(?:\{\})?_\{?(\d+)\}?P_\{?(\d+)\}?", r"\\frac{\1!}{(\1-\2)!}"),
        (r"(?<=\\\\)\[\d+(?:pt|em|ex)\]", ""),
        (r"(?<![A-Za-z\\])sqrt\s?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\text\{\s?([:;,])\s?\}", r"\1"),
        (r"(?<=\d)\s?(?:\^\s?\{?)?\\(?:text|mathrm)\{\s?(?:st|nd|rd|th)\}\}?$|(?<=\d)(?:st|nd|rd|th)$", ""),
        (r"\\log_\{?e\}?(?![A-Za-z0-9])", r"\\ln"),
        (r"\\(langle|rangle|lt|gt)(?![A-Za-z])", lambda match: _BRACKETS[match[1]]),
        (r"(?<=\d)\.(?=[/}]|$)", ""),
        (r"^([+-]?\d{1,3}(?: \d{3})++)(?=[.]\d|$)", lambda match: match[1].replace(" ", "")),
        (r"^([+-]?\d+) (\d+)/(\d+)(?![\d/])", r"\1\\frac{\2}{\3}"),
        (r"\\frac\s?\\pi\s?(\d)", r"\\frac{\\pi}{\1}"),
        (r"\\equiv(?![A-Za-z])", "="),
        (r"\\[pb]mod(?![A-Za-z])", r"\\mod"),
        (r"[\s,;]++$", ""),
        (r"\\varnothing|\\\{\s?\\\}", r"\\emptyset"),
        (r"\\([gl]e)(?:q|qslant)?(?![A-Za-z])", r"\\\1 "),
        (r"\\neq?(?![A-Za-z])\s?", r"\\ne "),
        (r"(?:,|\\text\{\s?and\s?\})\s?[A-Za-z]\s?\\ne\s", ","),
        (
            r"^[A-Za-z]\s?\\ne\s(.+)$|^\\mathbb\{?R\}?\s?(?:-|\\backslash)\s?\\\{(.+)\\\}$",
            r"\\mathbb{R} \\setminus \\{\1\2\\}",
        ),
        (r"(\d+\.\d*?)(\d{1,6}?)\2{2,}(?:\\[lc]?dots|\.+|…)$", r"\1\\overline{\2}"),
        (r"(\d{1,20})\.(\d{0,20})\\(?:overline|bar|dot)\{?(\d{1,20})\}?", _fraction),
        (r"^(.*\})\s?\\%$", r"\\frac{\1}{100}"),
        (
            r"\\begin\{([pb]?matrix)\}([^&]*?\\\\[^&]*?)(?:\\\\)?\s?\\end\{\1\}",
            lambda match: "(" + match[2].replace(r"\\", ",") + ")",
        ),
        (r"^\\\{\s?[A-Za-z](?:\s?\\in\s?\\mathbb\{?R\}?)?\s?(?::|\\mid|\\colon|\\vert|\|)([^|]+)\\\}$", r"\1"),
        (
            r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,8})(?![\w.^])",
            lambda match: rf"{match[1]} \times 10^{{{int(match[2])}}}",
        ),
        (r"^(?:\||\\lvert)\s?([A-Za-z])\s?(?:\||\\rvert)\s?(<|\\le\s)(.+)$", r"-(\3) \2 \1 \2 \3"),
        (r"^(?:\||\\lvert)\s?([A-Za-z])\s?(?:\||\\rvert)\s?>(.+)$", r"\1 > \2 \\text{ or } \1 < -(\2)"),
        (r"^(?:\||\\lvert)\s?([A-Za-z])\s?(?:\||\\rvert)\s?\\ge(.+)$", r"\1 \\ge \2 \\text{ or } \1 \\le -(\2)"),
    )
]
_ALL_REALS = re.compile(
    r"\\mathbb\{?R\}?|[A-Za-z]\s?\\in\s?\\mathbb\{?R\}?|(?:\\text\{)?\s?all real(?: number)?s(?: [a-z])?\s?\}?",
    re.IGNORECASE,
)
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_PREAMBLE = re.compile(
    r"(?:\\text(?:bf|rm)?\{\s?)?(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final )?answer(?: is:?|:)\s*\}?\s*"
    r"|(?:\\text\{)?(?:option|choice) (?=\(?[A-J]\b)",
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
    if _TRIGONOMETRIC.search(answer):
        answer = _DEGREES.sub(r"\\frac{\1\\pi}{180}", answer)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    if _ALL_REALS.fullmatch(answer):
        return r"(-\infty,\infty)"
    if (word := answer.removeprefix(r"\text{").removesuffix("}").strip().lower()) in _NUMBER_WORDS:
        return str(_NUMBER_WORDS.index(word))
    return answer
