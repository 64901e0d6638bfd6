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
from enum import StrEnum

from rence_lightning.problem import Problem

NGRAM = 8
SHARE = 0.6
"""Smallest share of the n-grams of a held-out problem for `near`. On DAPO-Math-17k and the benchmarks of the paper it
finds all 131 overlaps of a labelling by 8-grams of plain words, and 30 more, nearly all of which are the same problem
with another form of its answer."""

_WORD = re.compile(r"[^\W\d_]{3,}|[^\W\d_]|\d+")
_TYPESETTING = re.compile(
    r"\s|[${}]|\\(?:left|right|displaystyle|quad|qquad|text|mathrm|textrm)(?![A-Za-z])|\\[,!;: ()\[\]]"
)
_SPELLINGS = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\leqslant": r"\le",
    r"\geqslant": r"\ge",
    r"\leq": r"\le",
    r"\geq": r"\ge",
    r"\ldots": r"\dots",
    r"\cdots": r"\dots",
}
_END = ".,:;!? "


class OverlapKind(StrEnum):
    """The kind of an overlap of a training problem with a held-out one."""

    EXACT = "exact"
    CONTAINED = "contained"
    NEAR = "near"


@dataclass(frozen=True)
class Overlap:
    """An overlap of a training problem with a held-out one.

    Attributes:
        kind: Kind of the overlap.
        benchmark: Name of the benchmark to which the held-out problem belongs.
        problem: Held-out problem.
    """

    kind: OverlapKind
    benchmark: str
    problem: Problem


def normal_form(text: str) -> str:
    """The text without typesetting, equal for copies of a problem. Operators are kept."""
    text = text.casefold()
    for spelling, usual in _SPELLINGS.items():
        text = text.replace(spelling, usual)
    return _TYPESETTING.sub("", text).rstrip(_END)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _ngrams(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}


def _numbers(words: Sequence[str]) -> Counter[str]:
    return Counter(word for word in words if word.isdigit())


class OverlapIndex:
    """Finds the held-out problems that a training problem overlaps with.

    Args:
        held_out: Problems of each benchmark, by its name.
    """

    def __init__(self, held_out: Mapping[str, Sequence[Problem]]) -> None:
        self._held_out = [(name, problem) for name, problems in held_out.items() for problem in problems]
        words = [_words(problem.problem) for _, problem in self._held_out]
        self._forms = [normal_form(problem.problem) for _, problem in self._held_out]
        self._ngrams = [_ngrams(each) for each in words]
        self._numbers = [_numbers(each) for each in words]
        self._with_form: defaultdict[str, list[int]] = defaultdict(list)
        self._with_ngram: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, (form, ngrams) in enumerate(zip(self._forms, self._ngrams, strict=True)):
            self._with_form[form].append(index)
            for ngram in ngrams:
                self._with_ngram[ngram].append(index)

    def find(self, text: str) -> list[Overlap]:
        """All overlaps of a training problem's text, in the order of the held-out problems."""
        form, words = normal_form(text), _words(text)
        found = dict.fromkeys(self._with_form.get(form, ()), OverlapKind.EXACT)
        shared = Counter(index for ngram in _ngrams(words) for index in self._with_ngram.get(ngram, ()))
        numbers = _numbers(words)
        for index, count in shared.items():
            if index in found:
                continue
            if self._forms[index] in form:
                found[index] = OverlapKind.CONTAINED
            elif count >= SHARE * len(self._ngrams[index]) and self._numbers[index] <= numbers:
                found[index] = OverlapKind.NEAR
        return [Overlap(found[index], *self._held_out[index]) for index in sorted(found)]
