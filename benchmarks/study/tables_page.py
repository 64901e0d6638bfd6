"""The page of the paper's tables and the family at small scale."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from benchmarks.machine import describe
from benchmarks.markdown import save, table
from benchmarks.study.outcome import BUDGETS, Outcome, distinct, provenance
from benchmarks.study.rows import Rows
from benchmarks.study.spec import REFERENCE, Spec, Table
from benchmarks.study.statistics import Interval, cell, difference_cell, mean_interval, remaining
from benchmarks.study.tables_figures import compared, draw_curves, draw_differences, trained_rows

NAME = "small_tables"


def write(outcomes: list[Outcome], spec: Spec, docs: Path) -> None:
    """Writes `small_tables.md` and its figures, `small_tables_*.png`, from the finished runs of the study "tables".

    Args:
        outcomes: Finished runs of all studies.
        spec: Specification of the study.
        docs: Folder of the page, which is created.
    """
    docs.mkdir(parents=True, exist_ok=True)
    rows = Rows(spec, outcomes)
    parts = [_head(rows)]
    if rows.tasks:
        draw_differences(rows, docs / f"{NAME}_differences.png")
        parts += [_answer(rows)]
    for task in rows.tasks:
        draw_curves(rows, task, docs / f"{NAME}_{task}.png")
        parts += [_task(rows, task)]
    parts += [_choice(rows), _repeat(rows), _paper(spec), _facts(rows, outcomes)]
    save("\n\n".join(part for part in parts if part), docs / f"{NAME}.md")


def _head(rows: Rows) -> str:
    unfinished = [
        f"{task} ({method}: {done} of {len(rows.spec.seeds)})"
        for task in rows.spec.tasks
        if REFERENCE in rows.spec.methods_of(task)
        for method in rows.spec.methods_of(task)
        if (done := len(rows.of(task, method))) < len(rows.spec.seeds)
    ]
    warning = f"**The study is not finished: {len(unfinished)} rows lack seeds.**\n\n" if unfinished else ""
    return (
        "# The paper's tables and the family at small scale\n\n"
        f"{warning}Every row of the paper's Tables 1 to 4, and the other objectives of the family, on policies of half "
        "a million parameters, compared at equal numbers of sampled responses and at equal numbers of updates. It says "
        "how the methods behave here. It says little about Qwen3-4B on mathematics: the order is this scale's, not the "
        "paper's."
    )


def _answer(rows: Rows) -> str:
    differences = {
        (task, budget, name): each
        for task in rows.tasks
        for budget in BUDGETS
        for name in compared(rows, task)
        if (each := rows.difference(task, name, budget)) is not None
    }
    keys = list(differences)
    kept = {keys[place] for place in remaining(list(differences.values()))}
    count, apart = len(differences), sum(each.sign != 0 for each in differences.values())
    lines = []
    for task in rows.tasks:
        for budget in BUDGETS:
            total = len(compared(rows, task))
            above, below = (_side(differences, kept, task, budget, sign) for sign in (1, -1))
            lines.append(
                f"- {rows.spec.tasks[task].title}, at {_size(rows, budget)}: of {total} methods, "
                f"{_listed(above, 'above')}; {_listed(below, 'below')}; "
                f"{total - len(above) - len(below)} cannot be told from it."
            )
    return (
        f"## The answer\n\nOf {count} differences to {REFERENCE}, {apart} have a 95% interval that excludes 0. If none "
        f"differed, {count / 20:.1f} would on average, and because all share the {len(rows.spec.seeds)} runs of "
        f"{REFERENCE} on a task, many at once or none. The {len(kept)} with a † remain after Holm's correction for "
        f"{count} differences; the others are to be read as hints.\n\n"
        + "\n".join(lines)
        + f"\n\n![differences to {REFERENCE} at both budgets]({NAME}_differences.png)\n\n"
        f"Each method minus {REFERENCE} over equal seeds, in percentage points of pass@1, with its 95% interval: blue "
        f"where {REFERENCE} is ahead, red where it is behind, grey where the interval includes 0. An arrow is a mean "
        f"beyond the axis. In numbers:\n\n{_numbers(rows, differences, kept)}"
    )


Key = tuple[str, str, str]
"""A task, a budget and a method."""


def _side(differences: Mapping[Key, Interval], kept: set[Key], task: str, budget: str, sign: int) -> list[str]:
    """The methods whose interval is on one side of 0, largest differences first."""
    found = {key: each for key, each in differences.items() if key[:2] == (task, budget) and each.sign == sign}
    order = sorted(found, key=lambda key: -abs(found[key].mean))
    return [f"{key[2]} ({found[key].mean:+.1f}{'†' * (key in kept)})" for key in order]


def _numbers(rows: Rows, differences: Mapping[Key, Interval], kept: set[Key]) -> str:
    """All differences, a line for each method."""
    columns = [(task, budget) for task in rows.tasks for budget in BUDGETS]
    lines = [
        [name, *(difference_cell(differences.get(key), key in kept) for column in columns for key in [(*column, name)])]
        for name in dict.fromkeys(name for _, _, name in differences)
    ]
    return table(
        ["method", *(f"{rows.spec.tasks[task].title}, {_size(rows, budget)}" for task, budget in columns)], lines
    )


def _listed(names: list[str], side: str) -> str:
    return f"{len(names)} {'is' if len(names) == 1 else 'are'} {side} {REFERENCE}" + (
        f": {', '.join(names)}" if names else ""
    )


def _task(rows: Rows, task: str) -> str:
    about = rows.spec.tasks[task]
    sentence = about.about[0].upper() + about.about[1:]
    rates = f" Learning rates are those of `{about.rates_of}`." if about.rates_of else ""
    parts = [f"## {about.title}\n\n{sentence}.{rates}"]
    parts += [text for each in rows.spec.tables if (text := _comparison(rows, task, each))]
    parts.append(
        f"![learning curves, {about.title}]({NAME}_{task}.png)\n\nSampled pass@1 before training and where "
        f"{' and '.join(f'{share:.0%}' for share in rows.spec.shares)} of a budget are spent: mean over seeds and its "
        "95% interval."
    )
    parts.append(_costs(rows, task))
    return "\n\n".join(parts)


def _comparison(rows: Rows, task: str, each: Table) -> str:
    """A table of the paper on a task; empty if fewer than two of its rows are trained there."""
    if len(trained_rows(rows, task, each)) < 2:
        return ""
    reference = next((row.label for row in each.rows if row.method == each.reference), each.reference)
    titles = ["method"]
    for budget in BUDGETS:
        titles += [f"pass@1 at {_size(rows, budget)}, %", f"minus {reference}"]
    titles.append("learning rate")
    lines = []
    for row in each.rows:
        if row.method not in rows.spec.methods_of(task):
            continue
        cells = [row.label + _marks(rows, task, row.method)]
        for budget in BUDGETS:
            cells.append(cell(rows.mean(task, row.method, budget)))
            cells.append(difference_cell(rows.difference(task, row.method, budget, each.reference)))
        rate = rows.rate(task, row.method)
        lines.append([*cells, "" if rate is None else f"{rate:g}"])
    return f"### {each.title}\n\n{table(titles, lines)}"


def _marks(rows: Rows, task: str, method: str) -> str:
    """How many seeds a row has, if some are missing, and how many of its runs ended early."""
    runs, wanted, early = len(rows.of(task, method)), len(rows.spec.seeds), len(rows.ended_early(task, method))
    marks = [f"{runs} of {wanted} seeds"] * (runs < wanted) + [f"{early} ended early"] * bool(early)
    return f" ({', '.join(marks)})" if marks else ""


def _costs(rows: Rows, task: str) -> str:
    titles = ["method", "learning rate"]
    for budget in BUDGETS:
        titles += [f"responses at {_size(rows, budget)}", "updates", "CPU s"]
    titles.append(f"pass@1 at exactly {_size(rows, 'responses')}, %")
    lines, notes = [], []
    for method in rows.trained(task):
        runs, rate = list(rows.of(task, method).values()), rows.rate(task, method)
        if not runs or rate is None:
            continue
        cells = [method, f"{rate:g}"]
        for budget in BUDGETS:
            points = [run.at[budget] for run in runs]
            cells += [
                f"{fmean(point.responses for point in points):,.0f}",
                f"{fmean(point.updates for point in points):.0f}",
                f"{fmean(point.cpu_seconds for point in points):.0f}",
            ]
        size = rows.spec.budgets["responses"]
        lines.append([*cells, f"{100 * fmean(run.interpolated('responses', size) for run in runs):.1f}"])
        if errors := rows.ended_early(task, method):
            notes.append(f"- {method}: {len(errors)} of {len(runs)} runs diverged or starved; the first: `{errors[0]}`")
    text = (
        "### Costs\n\nMeans over seeds, where each budget is spent. CPU seconds are those of training, without "
        "evaluations and grading. Methods that filter spend a budget of responses in steps of whole iterations, and so "
        "exceed it; the last column is a line between the evaluations before and after the exact number.\n\n"
        + table(titles, lines)
    )
    return "\n\n".join([text, "\n".join(notes)]) if notes else text


def _choice(rows: Rows) -> str:
    parts = []
    for task, about in rows.spec.tasks.items():
        scores = {name: rows.scores(task, name) for name in rows.trained(task) if rows.scores(task, name)}
        if not scores or about.rates_of:
            continue
        rates = sorted({rate for each in scores.values() for rate in each})
        lines = []
        for method, each in scores.items():
            cells = [method]
            for rate in rates:
                early = any(run.error for run in rows.selection(task, method).get(rate, ()))
                value = f"{each[rate]:.1f}{'†' * early}" if rate in each else ""
                cells.append(f"**{value}**" if rate == rows.rate(task, method) else value)
            lines.append(cells)
        parts.append(f"### {about.title}\n\n{table(['method', *(f'{rate:g}' for rate in rates)], lines)}")
    if not parts:
        return ""
    return (
        "## The choice of learning rates\n\nPass@1 in % on the validation problems, the mean over both budgets and "
        f"the seeds {_series(rows.spec.selection_seeds)}; the highest is chosen, among equal ones the lowest "
        f"rate. Where it was at an end of the list, the list went on, by at most {rows.spec.extend} at either end. "
        "† marks a rate with which a run diverged or starved. Neighbouring rates are often about a point apart, which "
        "is less than the seeds differ: a choice between them is partly chance, and no interval of this page covers "
        "that. Where a row has another rate than its reference, a small difference may be that of the rates.\n\n"
        + "\n\n".join(parts)
    )


def _repeat(rows: Rows) -> str:
    lines, inside, expected, outside = [], 0, 0, [0.0]
    for task in rows.tasks:
        for method in rows.spec.repeated:
            for budget in BUDGETS:
                first = rows.mean(task, method, budget)
                fresh = rows.accuracies(task, method, budget, "repeat")
                if first is None or not fresh:
                    continue
                again = mean_interval(list(fresh.values()), 0, 100)
                within, likely = again.mean in first, first.expects(again.mean)
                inside, expected = inside + within, expected + likely
                outside.append(max(first.low - again.mean, again.mean - first.high))
                seeds = "" if len(fresh) == len(rows.spec.repeat_seeds) else f" ({len(fresh)} seeds)"
                answers = ["yes" if each else "no" for each in (within, likely)]
                names = [rows.spec.tasks[task].title, method, _size(rows, budget)]
                lines.append([*names, cell(first), f"{cell(again)}{seeds}", *answers])
    if not lines:
        return ""
    return (
        f"## The same rows on fresh seeds\n\n{_series(rows.spec.repeated)} were run once more, with the seeds "
        f"{_series(rows.spec.repeat_seeds)} and the same learning rates. {inside} of {len(lines)} fresh means are "
        f"within the interval of the first ones, the others up to {max(outside):.1f} points outside. By theory about "
        "88% would be within, not 95%, as a fresh mean has its own noise; within limits that are sqrt(2) times as "
        f"wide, 95% would be, and {expected} of {len(lines)} are. The rows are not independent: methods share the "
        "seeds' orders of prompts, and the two figures of GRPO on a task are one.\n\n"
        + table(["task", "method", "at", "first mean, %", "fresh mean, %", "within", "within sqrt(2) times"], lines)
    )


def _paper(spec: Spec) -> str:
    lines = [[t.title, row.label, f"{row.paper:.1f}"] for t in spec.tables for row in t.rows if row.paper is not None]
    return (
        "## The paper's own figures\n\nThe column Avg of the paper: Qwen3-4B, mean over six benchmarks. It is here "
        "to be looked up; the tables above are no estimate of it.\n\n" + table(["table", "method", "Avg, %"], lines)
    )


def _facts(rows: Rows, outcomes: list[Outcome]) -> str:
    spec = rows.spec
    runs = [each for each in outcomes if each.study == "tables"]
    once = distinct(runs)
    repeats = spec.options.get("evaluation.repeats", 1)
    lines = [
        "Command: `make study`, which is `python -m benchmarks.study`; it continues where it was interrupted.",
        f"Runs: {len(once)}, {sum(each.cpu_seconds for each in once) / 3600:.1f} CPU hours with evaluations; "
        f"{provenance(runs)}.",
        f"Page written on: {describe(('torch', 'transformers', 'lightning', 'reasoning-gym', 'scipy'))}",
        f"Seeds: {_series(spec.selection_seeds)} for the choice of learning rates, {_series(spec.seeds)} for the "
        f"tables, {_series(spec.repeat_seeds)} for the check. Equal seeds have the same order of prompts.",
        f"Budgets: {' or '.join(_size(rows, budget) for budget in BUDGETS)}. A run is evaluated at ends of iterations, "
        "so it may exceed a budget, by as much as the tables of costs show.",
        f"Evaluations: sampled pass@1 at temperature 1, {repeats} samples to each of 500 test problems (400 for the "
        "choice of learning rates). The test problems and the "
        "validation problems are in no training data, neither of the runs nor of the policy's warm-up.",
        "Of the gym's test problems 9% have two numbers, of its validation problems none: figures of the two sets do "
        "not compare.",
        "Intervals: 95%, Student's t over seeds (`benchmarks/study/statistics.py` says why no bootstrap). They cover "
        "the chance of a run's seed, with the test problems and the learning rate as they are.",
        "An iteration has 4 updates where the paper has 16. GRPO, 2-GRPO and GRPO with reference have one, a quarter, "
        "as GRPO in the paper has 4: their likelihood ratios are 1, and nothing is clipped. [When does ReNCE "
        "win?](when.md) varies the number. Iterative takes all of its updates in few iterations.",
        "ReNCE (t_easy 0.99) keeps t_master at 0.8, which excludes groups with 7 or 8 of 8 right; the level 0.99 of "
        "[t_easy](when.md#t_easy-the-filter) has 1.",
        "A run that diverged or starved counts with the policy of its last evaluation.",
        "The policies have half a million parameters, and the problems are sums: the order is this scale's, not the "
        "paper's.",
    ]
    return "## Facts and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _size(rows: Rows, budget: str) -> str:
    return f"{rows.spec.budgets[budget]:,} {budget}"


def _series(values: tuple[object, ...]) -> str:
    return ", ".join(str(value) for value in values)
