r"""One notation for what answers write in many: rewritten before they are compared, and never evaluated.

| written | read as |
| --- | --- |
| `−5`, `2√3`, `3π`, `x ≤ 1`, `60°` | `-5`, `2\sqrt{3}`, `3\pi`, `x \le 1`, `60` |
| `60^\circ`, `60 degrees` | `60` |
| `12\,345`, `1{,}000` | `12345`, `1,000` |
| `5.3e-9` | `5.3 \times 10^{-9}` |
| `-1./3` | `-1/3` |
| `\boxed{5}`, `The answer is 5` | `5` |
| `3.50 dollars` | `3.50` |
| `\varnothing`, `\{\}` | `\emptyset` |
"""

import re

_SYMBOLS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "\N{UNION}": r"\cup ",
        "∈": r"\in ",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "·": r"\cdot ",
        "∅": r"\emptyset ",
        "°": "",
    }
)
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"√\s?(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\^\s?(?:\\circ|\{\\circ\})|\\degree(?![A-Za-z])", ""),
        (r"(?<=\d)\s?(?:\\text\{\s?degrees?\}|degrees?)$", ""),
        (r"(?<=\d)\s?(?:\\text\{\s?dollars?\}|dollars?)$", ""),
        (r"(?<=\d)(?:\\,|\{,\}|\\ )(?=\d{3}(?!\d))", ""),
        (r"(?<=\d)\.(?=[/}]|$)", ""),
        (r"\\varnothing|\\\{\s?\\\}", r"\\emptyset"),
        (r"\\(?:geqslant|geq|ge)(?![A-Za-z])", r"\\ge "),
        (r"\\(?:leqslant|leq|le)(?![A-Za-z])", r"\\le "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
    )
]
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)[eE]([+-]?\d+)")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_PREAMBLE = re.compile(r"(?:the )?(?:final )?answer(?: is|:)\s*", re.IGNORECASE)


def one_notation(answer: str) -> str:
    """An answer in the notation of this module's table, in time linear in its length."""
    answer = answer.translate(_SYMBOLS).strip()
    if preamble := _PREAMBLE.match(answer):
        answer = answer[preamble.end() :]
    if boxed := _BOXED.fullmatch(answer):
        answer = boxed[1]
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    if scientific := _SCIENTIFIC.fullmatch(answer):
        answer = rf"{scientific[1]} \times 10^{{{int(scientific[2]) if len(scientific[2]) < 9 else scientific[2]}}}"
    return answer.strip()
