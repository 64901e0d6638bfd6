"""Cleaning of training problems: other scripts, copies, contradicting copies, and problems held out for evaluation."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rence_lightning.configurable import Configurable
from rence_lightning.errors import UserError
from rence_lightning.problem import Problem
from rence_lightning.prompts.overlap import Overlap, OverlapIndex, normal_form

What = Literal["drop", "keep"]
Reason = Literal["script", "duplicate", "conflict", "contaminated"]

REASONS: dict[Reason, str] = {
    "script": "in another script",
    "duplicate": "duplicates",
    "conflict": "copies with different answers",
    "contaminated": "found in a benchmark",
}
"""The reasons in words, to follow a number."""

_MATHEMATICAL = ("GREEK", "MATHEMATICAL")
"""First words of the Unicode names of letters that occur in problems of any language."""

OTHER_LETTERS = 0.05
"""Share of the letters of words that may be in another script; a problem with more is in another script. Variables and
LaTeX commands are excluded, because they are Latin in every language."""

_COMMAND = re.compile(r"\\[A-Za-z]+")
_WRITTEN_WORD = re.compile(r"[^\W\d_]{2,}|[^\W\d_a-zA-Z]")
_DEGREES = re.compile(r"\^\\circ|\\mathbf")


@dataclass(frozen=True)
class Dropped:
    """A problem that is left out of training, or would be if contaminated problems were dropped.

    Attributes:
        problem: Problem in question.
        reason: Reason for leaving it out.
        because_of: Ids of the problems that it copies or contradicts.
        overlaps: Overlaps with held-out problems, for the reason `contaminated`.
    """

    problem: Problem
    reason: Reason
    because_of: tuple[str, ...] = ()
    overlaps: tuple[Overlap, ...] = ()


@dataclass(frozen=True)
class Cleaned:
    """The outcome of cleaning the training problems.

    Attributes:
        kept: Positions of the problems that are kept, ascending.
        dropped: Problems that are left out, in the given order.
        reported: Contaminated problems that are kept because the configuration says so.
    """

    kept: list[int]
    dropped: list[Dropped] = field(default_factory=list)
    reported: list[Dropped] = field(default_factory=list)

    @property
    def counts(self) -> dict[Reason, int]:
        """The number of problems left out for each reason."""
        return dict(Counter(dropped.reason for dropped in self.dropped))

    @property
    def overlaps(self) -> list[tuple[Problem, Overlap]]:
        """The overlaps of training problems, dropped or kept, with held-out problems."""
        return [(each.problem, overlap) for each in self.dropped + self.reported for overlap in each.overlaps]

    def contamination(self) -> dict[str, dict[str, int]]:
        """For each benchmark with overlaps, the number of its `problems` that overlap and the number of overlaps of
        each kind."""
        hit: defaultdict[str, set[str]] = defaultdict(set)
        kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for _, overlap in self.overlaps:
            hit[overlap.benchmark].add(overlap.problem.id)
            kinds[overlap.benchmark][str(overlap.kind)] += 1
        return {name: {"problems": len(hit[name]), **dict(sorted(kinds[name].items()))} for name in hit}

    def lines(self) -> list[str]:
        """The report in lines of text, empty if nothing was found."""
        total = len(self.kept) + len(self.dropped)
        lines = []
        if self.dropped:
            why = ", ".join(f"{count:,} {REASONS[reason]}" for reason, count in self.counts.items())
            lines.append(f"training problems: {len(self.kept):,} of {total:,}; left out: {why}")
        if self.overlaps:
            verb = "left out" if not self.reported else "NOT left out (data.cleaning.contaminated: keep)"
            hits = ", ".join(f"{counts['problems']} of {name}" for name, counts in self.contamination().items())
            lines.append(f"benchmark problems found in the training data, and {verb}: {hits}")
        return lines

    def record(self) -> dict[str, Any]:
        """The full report as JSON: counts, and an entry for each problem that is left out or overlaps."""
        return {
            "problems": len(self.kept) + len(self.dropped),
            "kept": len(self.kept),
            "dropped": self.counts,
            "contamination": self.contamination(),
            "details": [_detail(each, kept=False) for each in self.dropped]
            + [_detail(each, kept=True) for each in self.reported],
        }


def _detail(each: Dropped, kept: bool) -> dict[str, Any]:
    detail: dict[str, Any] = {"id": each.problem.id, "source": each.problem.source, "reason": each.reason, "kept": kept}
    if each.because_of:
        detail["because_of"] = list(each.because_of)
    if each.overlaps:
        detail["overlaps"] = [
            {"kind": str(overlap.kind), "benchmark": overlap.benchmark, "id": overlap.problem.id}
            for overlap in each.overlaps
        ]
    return detail


@dataclass(frozen=True)
class _Copies:
    """The problems with the same normal form.

    Attributes:
        positions: Their positions, ascending.
        conflict: Whether their answers differ.
    """

    positions: list[int]
    conflict: bool


class Cleaning(Configurable):
    """Leaves out training problems before a run begins.

    Copies are problems of the same text, up to typesetting (`rence_lightning.prompts.overlap`).

    Args:
        duplicates: Treatment of copies with the same answer: `drop` keeps the first copy alone, `keep` all copies.
        conflicts: Treatment of copies with different answers: `drop` leaves out all copies, because the right answer is
            unknown; `keep` keeps them.
        contaminated: Treatment of problems that overlap with a problem of `evaluation.benchmarks` or
            `evaluation.held_out`: `drop` leaves them out, `keep` only reports them.
        script: Script of the problems to keep, as it begins the Unicode names of its letters, such as `latin` or `cjk`;
            Greek letters and symbols are always accepted. Null: any script.
    """

    def __init__(
        self,
        duplicates: What = "drop",
        conflicts: What = "drop",
        contaminated: What = "drop",
        script: str | None = None,
    ) -> None:
        self.duplicates, self.conflicts, self.contaminated = duplicates, conflicts, contaminated
        self.script = script.upper() if script is not None else None

    def clean(self, problems: Sequence[Problem], held_out: Mapping[str, Sequence[Problem]]) -> Cleaned:
        """Judges problems in their order. Of several reasons to leave one out, the first of `script`, `conflict`,
        `duplicate` and `contaminated` is reported.

        Raises:
            UserError: Nothing is left.
        """
        index = OverlapIndex(held_out)
        forms = [normal_form(each.problem) if self._in_script(each.problem) else None for each in problems]
        copies = _copies(problems, forms)
        kept: list[int] = []
        dropped: list[Dropped] = []
        reported: list[Dropped] = []
        for position, problem in enumerate(problems):
            form = forms[position]
            judged = (
                Dropped(problem, "script") if form is None else self._judge(position, problems, copies[form], index)
            )
            if judged is None:
                kept.append(position)
            elif judged.reason == "contaminated" and self.contaminated == "keep":
                kept.append(position)
                reported.append(judged)
            else:
                dropped.append(judged)
        if problems and not kept:
            counts = dict(Counter(each.reason for each in dropped))
            raise UserError(f"data.cleaning: none of the {len(problems)} training problems is left ({counts})")
        return Cleaned(kept, dropped, reported)

    def _judge(
        self, position: int, problems: Sequence[Problem], copies: _Copies, index: OverlapIndex
    ) -> Dropped | None:
        problem = problems[position]
        if self.conflicts == "drop" and copies.conflict:
            others = [other for other in copies.positions if other != position]
            return Dropped(problem, "conflict", _ids(problems, others))
        if self.duplicates == "drop" and copies.positions[0] != position:
            return Dropped(problem, "duplicate", _ids(problems, copies.positions[:1]))
        overlaps = tuple(index.find(problem.problem))
        return Dropped(problem, "contaminated", overlaps=overlaps) if overlaps else None

    def _in_script(self, text: str) -> bool:
        if self.script is None or (text.isascii() and self.script == "LATIN"):
            return True
        words = "".join(_WRITTEN_WORD.findall(_COMMAND.sub(" ", text)))
        names = [unicodedata.name(symbol, "") for symbol in words]
        letters = [name for name in names if not name.startswith(_MATHEMATICAL)]
        other = sum(not name.startswith(self.script) for name in letters)
        return other <= OTHER_LETTERS * len(letters)


def _copies(problems: Sequence[Problem], forms: Sequence[str | None]) -> dict[str, _Copies]:
    """The problems of each normal form; those without one are in another script."""
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, form in enumerate(forms):
        if form is not None:
            positions[form].append(position)
    # Once for all copies: some data sets hold a hundred copies of each problem.
    return {
        form: _Copies(members, len({_answer_form(problems[member].answer) for member in members}) > 1)
        for form, members in positions.items()
    }


def _answer_form(answer: str) -> str:
    return _DEGREES.sub("", normal_form(answer)).lstrip("0") or "0"


def _ids(problems: Sequence[Problem], positions: Iterable[int]) -> tuple[str, ...]:
    return tuple(problems[position].id for position in positions)
