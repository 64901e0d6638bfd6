"""The page "When does ReNCE win?"."""

from collections import Counter
from pathlib import Path
from statistics import fmean

from benchmarks.machine import describe
from benchmarks.markdown import save, table
from benchmarks.study.levels import Comparison, Levels, budgets_of
from benchmarks.study.outcome import Outcome, distinct, provenance
from benchmarks.study.spec import REFERENCE, QuestionSpec, Spec
from benchmarks.study.statistics import cell, difference_cell, remaining
from benchmarks.study.when_figures import draw_glance, draw_levels

NAME = "when"


def write(outcomes: list[Outcome], spec: Spec, docs: Path) -> None:
    """Writes `when.md` and its figures, `when_*.png`, from the finished runs of the study "when".

    Args:
        outcomes: Finished runs of all studies.
        spec: Specification of the study.
        docs: Folder of the page, which is created.
    """
    docs.mkdir(parents=True, exist_ok=True)
    levels = Levels(spec, outcomes)
    parts = [_head(levels)]
    if levels.questions:
        draw_glance(levels, docs / f"{NAME}_glance.png")
        parts.append(_answer(levels))
    for each in levels.questions:
        draw_levels(levels, each, docs / f"{NAME}_{each.question.name}.png")
        parts.append(_question(levels, each))
    parts.append(_facts(levels, outcomes))
    save("\n\n".join(parts), docs / f"{NAME}.md")


def _head(levels: Levels) -> str:
    missing = levels.missing()
    warning = f"**The study is not finished: {len(missing)} cells lack seeds.**\n\n" if missing else ""
    return (
        f"# When does {REFERENCE} win?\n\n{warning}The paper reports the highest average of its Table 1 for "
        f"{REFERENCE}, with Qwen3-4B on mathematics. Here, one setting at a time is varied on policies of half a "
        f"million parameters, and {REFERENCE} is compared with its rivals at each level. All figures are percentage "
        f"points of sampled pass@1: means over {len(levels.spec.seeds)} seeds with 95% intervals in brackets."
    )


def _answer(levels: Levels) -> str:
    lines = []
    for budget, size in budgets_of(levels.spec).items():
        found = levels.distinct(budget)
        signs = Counter(each.difference.sign for each in found)
        kept = [_named(levels, found[place]) for place in remaining([each.difference for each in found])]
        lines.append(
            f"- At {size}: of {len(found)} comparisons, {REFERENCE} is above its rival in {signs[1]}, below in "
            f"{signs[-1]}, and the interval includes 0 in {signs[0]}. After Holm's correction for {len(found)} "
            f"comparisons, {len(kept)} remain: {'; '.join(kept)}."
        )
        for rival in dict.fromkeys(each.rival for each in found):
            signs = Counter(each.difference.sign for each in found if each.rival == rival)
            lines.append(
                f"    - Against {rival}: above in {signs[1]}, below in {signs[-1]}, "
                f"the interval includes 0 in {signs[0]}."
            )
    return (
        "## The answer\n\n"
        + "\n".join(lines)
        + "\n\nLevels of several questions that are the same runs are counted once. Levels of a question share "
        f"seeds, and often the runs of {REFERENCE}, so chance moves many of them together.\n\n"
        f"![{REFERENCE} minus each rival, all levels]({NAME}_glance.png)\n\n"
        f"{REFERENCE} minus its rival: blue where {REFERENCE} is ahead, red where it is behind, grey where the "
        "interval includes 0."
    )


def _named(levels: Levels, each: Comparison) -> str:
    """A comparison with its question, as text."""
    title = next(one.question.title for one in levels.questions if one.question.name == each.question)
    return f"{title}, {each.level}, against {each.rival} ({each.difference.mean:+.1f})"


def _question(levels: Levels, each: QuestionSpec) -> str:
    question = each.question
    default = f" All other questions have {question.default}." if question.default else ""
    parts = [f"## {question.title}\n\n{question.about}.{default}"]
    for budget, size in budgets_of(levels.spec).items():
        parts.append(f"At {size}:\n\n{_table(levels, each, budget)}\n\n{_sentences(levels, each, budget)}")
    parts.append(f"Spent, responses and updates, means over seeds:\n\n{_spent(levels, each)}")
    parts.append(f"![{question.title}]({NAME}_{question.name}.png)")
    return "\n\n".join(parts)


def _table(levels: Levels, each: QuestionSpec, budget: str) -> str:
    rivals = [name for name in each.methods if name != REFERENCE]
    titles = ["level", "before", *each.methods, *(f"{REFERENCE} - {rival}" for rival in rivals)]
    lines = []
    for name, level in each.levels.items():
        found = [levels.comparison(each.question.name, name, rival, budget) for rival in rivals]
        lines.append(
            [
                name,
                cell(levels.start(level.task)),
                *(cell(levels.mean(each.question.name, name, method, budget)) for method in each.methods),
                *(difference_cell(one.difference if one else None) for one in found),
            ]
        )
    return table(titles, lines)


def _spent(levels: Levels, each: QuestionSpec) -> str:
    """What each method has spent at each level where it is compared; a run is evaluated after whole iterations."""
    sizes = budgets_of(levels.spec)
    lines = []
    for name in each.levels:
        cells = [name]
        for budget in sizes:
            for method in each.methods:
                points = [run.at[budget] for run in levels.of(each.question.name, name, method).values()]
                spent = [fmean(getattr(point, kind) for point in points) for kind in sizes] if points else []
                cells.append(", ".join(f"{value:,.0f}" for value in spent))
        lines.append(cells)
    return table(["level", *(f"{method} at {size}" for size in sizes.values() for method in each.methods)], lines)


def _sentences(levels: Levels, each: QuestionSpec, budget: str) -> str:
    """What the intervals say about each rival, in words."""
    sentences = []
    for rival in (name for name in each.methods if name != REFERENCE):
        found = [one for one in levels.comparisons(budget, [each]) if one.rival == rival]
        told = [
            f"{abs(one.difference.mean):.1f} points {'above' if one.difference.sign > 0 else 'below'} at {one.level} "
            f"({one.difference.low:+.1f} to {one.difference.high:+.1f})"
            for one in found
            if one.difference.sign
        ]
        open_ = [one.level for one in found if not one.difference.sign and one.difference.count > 1]
        parts = [f"{REFERENCE} against {rival}: " + "; ".join(told)] if told else []
        if open_:
            begin = "" if told else f"{REFERENCE} against {rival}: "
            parts.append(f"{begin}at {', '.join(open_)} the interval includes 0")
        sentences.append("; ".join(parts) + "." if parts else "")
    return " ".join(filter(None, sentences))


def _facts(levels: Levels, outcomes: list[Outcome]) -> str:
    spec = levels.spec
    runs = [each for each in outcomes if each.study == "when"]
    early, missing = levels.ended_early(), levels.missing()
    lines = [
        "Command: `make study`, which is `python -m benchmarks.study`; it continues where it was interrupted.",
        f"Runs: {len(distinct(runs))}, some of which are also those of other levels or of the tables; "
        f"{provenance(runs)}.",
        f"Page written on: {describe(('torch', 'transformers', 'lightning', 'reasoning-gym', 'scipy'))}",
        f"Seeds: {', '.join(map(str, spec.seeds))}, the same for all methods, so that differences are paired. "
        "Intervals: 95%, Student's t over seeds.",
        "Learning rates are those that [the tables](small_tables.md) chose on validation problems, and were not chosen "
        "again for a level: a level may suit the rate of one method better than that of another.",
        "The grader's errors depend on the problem and the text of a response alone, so that equal responses are "
        "always graded alike.",
        "Half a million parameters, sums, and one setting at a time: how settings act together was not tried.",
        *([f"Runs that ended early: {len(early)}; the first: {early[0]}"] if early else []),
        *([f"Missing: {'; '.join(missing)}."] if missing else []),
    ]
    return "## Facts and limits\n\n" + "\n".join(f"- {line}" for line in lines)
