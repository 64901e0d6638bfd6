r"""Overlaps of training problems with problems that are held out for evaluation.

There are three kinds, of which the first that applies is reported:

- `exact`: the same text, apart from case, blanks, dollar signs, braces and final punctuation.
- `contained`: the held-out text is a part of a longer problem.
- `near`: the problem has at least `SHARE` of the n-grams of the held-out problem (n = `NGRAM` words), and all of its
  numbers, each as often. A variant with other numbers is thus another problem.

A word is a run of three letters or more, a single letter, or a number, so that `2^{2n}` and `2^{2 n}` are equal.
Held-out problems of fewer than `NGRAM` words are found only as `exact`. Translations and paraphrases are not found.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rence_lightning.parts import Problem

NGRAM = 8
SHARE = 0.6
"""Smallest share of the n-grams of a held-out problem for `near`. On DAPO-Math-17k and the benchmarks of the paper it
finds all 131 overlaps of a labelling by 8-grams of plain words, and 30 more, nearly all of which are the same problem
with another form of its answer."""

_WORD = re.compile(r"[^\W\d_]{3,}|[^\W\d_]|\d+")
_TYPESETTING = re.compile(
    r"\s|[${}]|\\(?:left|right|displaystyle|quad|qquad|text|mathrm|textrm)(?![A-Za-z])|\\[,!;: ()\[\]]"
)
_SPELLINGS = (
    *((r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"), (r"\leqslant", r"\le"), (r"\geqslant", r"\ge")),
    *((r"\leq", r"\le"), (r"\geq", r"\ge"), (r"\ldots", r"\dots"), (r"\cdots", r"\dots")),
)


@dataclass(frozen=True)
class Overlap:
    """An overlap of a training problem with `problem`, which a benchmark holds out."""

    kind: Literal["exact", "contained", "near"]
    benchmark: str
    problem: Problem


def normal_form(text: str) -> str:
    """The text without typesetting, equal for copies of a problem. Operators are kept."""
    text = text.casefold()
    for spelling, usual in _SPELLINGS:
        text = text.replace(spelling, usual)
    return _TYPESETTING.sub("", text).rstrip(".,:;!? ")


class _Text:
    """What is compared of a problem's text."""

    def __init__(self, text: str) -> None:
        words = _WORD.findall(text.casefold())
        self.form = normal_form(text)
        self.ngrams = {tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}
        self.numbers = Counter(word for word in words if word.isdigit())


class OverlapIndex:
    """Finds the held-out problems, which are given by the name of their benchmark, that a training problem overlaps."""

    def __init__(self, held_out: Mapping[str, Sequence[Problem]]) -> None:
        self._held_out = [(name, problem) for name, problems in held_out.items() for problem in problems]
        self._texts = [_Text(problem.problem) for _, problem in self._held_out]
        self._with: defaultdict[str | tuple[str, ...], list[int]] = defaultdict(list)  # a form, or an n-gram
        for index, text in enumerate(self._texts):
            self._with[text.form].append(index)
            for ngram in text.ngrams:
                self._with[ngram].append(index)

    def find(self, problem: str) -> list[Overlap]:
        """All overlaps of a training problem's text, in the order of the held-out problems."""
        text = _Text(problem)
        found = {index: Overlap("exact", *self._held_out[index]) for index in self._with.get(text.form, ())}
        shared = Counter(index for ngram in text.ngrams for index in self._with.get(ngram, ()))
        for index, count in shared.items():
            other = self._texts[index]
            if index in found:
                continue
            if other.form in text.form:
                found[index] = Overlap("contained", *self._held_out[index])
            elif count >= SHARE * len(other.ngrams) and other.numbers <= text.numbers:
                found[index] = Overlap("near", *self._held_out[index])
        return [found[index] for index in sorted(found)]
