"""Cleaning of training problems: other scripts, copies, contradicting copies, and problems held out for evaluation."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rence_lightning.errors import UserError
from rence_lightning.parts import Configurable, Problem
from rence_lightning.prompts.overlap import Overlap, OverlapIndex, normal_form

What = Literal["drop", "keep"]

REASONS = {
    "script": "written in another script",
    "conflict": "copies with different answers",
    "duplicate": "duplicates",
    "contaminated": "found in a benchmark",
    "long_solution": "whose solution is too long for data.sampling.max_response_tokens",
    "too_long": "too long for data.max_prompt_tokens or the context",
}
"""Why training problems are left out, by the names of `training_problems.json`. Of several reasons, the first is
reported; what is too long is left out after the cleaning."""

# First words of the Unicode names of letters that occur in problems of any language.
_MATHEMATICAL = ("GREEK", "MATHEMATICAL")

OTHER_LETTERS = 0.05
"""Share of the letters of words that may be in another script; a problem with more is in another script. Variables and
LaTeX commands are excluded, because they are Latin in every language."""

_COMMAND = re.compile(r"\\[A-Za-z]+")
_WRITTEN_WORD = re.compile(r"[^\W\d_]{2,}|[^\W\d_a-zA-Z]")
_DEGREES = re.compile(r"\^\\circ|\\mathbf")


@dataclass(frozen=True)
class Finding:
    """A problem that is left out of training, or would be if contaminated problems were dropped.

    Attributes:
        problem: Problem in question.
        reason: Reason for leaving it out, one of `REASONS`.
        because_of: Ids of the problems that it copies or contradicts.
        overlaps: Overlaps with held-out problems, for the reason `contaminated`.
        kept: Whether it is kept nevertheless, because the configuration says so.
    """

    problem: Problem
    reason: str
    because_of: tuple[str, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Cleaned:
    """The outcome of cleaning the training problems.

    Attributes:
        kept: Positions of the problems that are kept, ascending.
        findings: Problems that are left out, or kept although they are contaminated, in the given order.
    """

    kept: list[int]
    findings: list[Finding] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """The number of problems left out for each reason."""
        return dict(Counter(each.reason for each in self.findings if not each.kept))

    def contamination(self) -> dict[str, dict[str, int]]:
        """For each benchmark with overlaps, the number of its `problems` that overlap and the number of overlaps of
        each kind."""
        found: defaultdict[str, list[Overlap]] = defaultdict(list)
        for overlap in (overlap for each in self.findings for overlap in each.overlaps):
            found[overlap.benchmark].append(overlap)
        kinds = {name: sorted(Counter[str](each.kind for each in found[name]).items()) for name in found}
        return {name: {"problems": len({o.problem.id for o in found[name]}), **dict(kinds[name])} for name in found}

    def lines(self) -> list[str]:
        """The report in lines of text, empty if nothing was found."""
        total = len(self.kept) + sum(self.counts.values())
        lines = []
        if self.counts:
            why = ", ".join(f"{count:,} {REASONS[reason]}" for reason, count in self.counts.items())
            lines.append(f"training problems: {len(self.kept):,} of {total:,}; left out: {why}")
        if hits := ", ".join(f"{counts['problems']} of {name}" for name, counts in self.contamination().items()):
            kept = any(each.kept for each in self.findings)
            verb = "NOT left out (data.cleaning.contaminated: keep)" if kept else "left out"
            lines.append(f"benchmark problems found in the training data, and {verb}: {hits}")
        return lines

    def record(self) -> dict[str, Any]:
        """The full report as JSON: counts, and an entry for each problem that is left out or overlaps."""
        return {
            "problems": len(self.kept) + sum(self.counts.values()),
            "kept": len(self.kept),
            "dropped": self.counts,
            "contamination": self.contamination(),
            "details": [
                {
                    "id": each.problem.id,
                    "source": each.problem.source,
                    "reason": each.reason,
                    "kept": each.kept,
                    "because_of": each.because_of,
                    "overlaps": [{"kind": o.kind, "benchmark": o.benchmark, "id": o.problem.id} for o in each.overlaps],
                }
                for each in self.findings
            ],
        }


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
        """Judges problems in their order; see `REASONS`. A `UserError` says that nothing is left."""
        index = OverlapIndex(held_out)
        copies: defaultdict[str, list[Problem]] = defaultdict(list)
        forms = [normal_form(each.problem) if self._in_script(each.problem) else None for each in problems]
        for problem, form in zip(problems, forms, strict=True):
            if form is not None:
                copies[form].append(problem)
        # Once for all copies: some data sets hold a hundred copies of each problem.
        contradictory = {form for form, each in copies.items() if len({_answer_form(p.answer) for p in each}) > 1}
        cleaned = Cleaned([])
        for position, (problem, form) in enumerate(zip(problems, forms, strict=True)):
            copied = copies[form] if form is not None else None
            if finding := self._judge(problem, copied, form in contradictory, index):
                cleaned.findings.append(finding)
            if finding is None or finding.kept:
                cleaned.kept.append(position)
        if problems and not cleaned.kept:
            found = ", ".join(f"{number} {kind}" for kind, number in cleaned.counts.items())
            raise UserError(
                f"data.cleaning: none of the {len(problems)} training problems is left ({found}); contaminated "
                "ones are in evaluation.benchmarks: evaluate on others, such as part: test beside part: train"
            )
        return cleaned

    def _judge(
        self, problem: Problem, copies: list[Problem] | None, conflict: bool, index: OverlapIndex
    ) -> Finding | None:
        if copies is None:
            return Finding(problem, "script")
        if self.conflicts == "drop" and conflict:
            return Finding(problem, "conflict", tuple(copy.id for copy in copies if copy is not problem))
        if self.duplicates == "drop" and copies[0] is not problem:
            return Finding(problem, "duplicate", (copies[0].id,))
        overlaps = tuple(index.find(problem.problem))
        return Finding(problem, "contaminated", (), overlaps, self.contaminated == "keep") if overlaps else None

    def _in_script(self, text: str) -> bool:
        if self.script is None or (text.isascii() and self.script == "LATIN"):
            return True
        words = "".join(_WRITTEN_WORD.findall(_COMMAND.sub(" ", text)))
        letters = [name for letter in words if not (name := unicodedata.name(letter, "")).startswith(_MATHEMATICAL)]
        return sum(not name.startswith(self.script) for name in letters) <= OTHER_LETTERS * len(letters)


def _answer_form(answer: str) -> str:
    return _DEGREES.sub("", normal_form(answer)).lstrip("0") or "0"
