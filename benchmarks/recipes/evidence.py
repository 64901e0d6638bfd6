"""What is known of a recipe, in sentences: the block of a configuration's header."""

import textwrap
from collections.abc import Iterable, Sequence
from statistics import fmean

from benchmarks.recipes.results import Result
from benchmarks.recipes.spec import Recipe
from benchmarks.study.outcome import BUDGETS, Outcome
from benchmarks.study.rows import Rows

MARKERS = ("# evidence, by python -m benchmarks.recipes write:", "# end of evidence")
WIDTH = 120


def block(recipe: Recipe, results: Sequence[Result], rows: Rows) -> str:
    """The comment lines between the markers of a recipe's file.

    Args:
        recipe: Recipe of the file.
        results: Its runs, one for each seed that is finished.
        rows: Runs of the small tables.
    """
    parts = []
    if results:
        parts.append(runs(recipe, results))
    elif recipe.seeds:
        parts.append(f"Not run yet: python -m benchmarks.recipes run --only {recipe.name} runs it.")
    parts += [recipe.missing, recipe.tested, row(recipe.method, rows) if recipe.method else ""]
    return "".join(f"{wrapped(part)}\n" for part in parts if part)


def wrapped(text: str) -> str:
    """A text as comment lines."""
    lines = textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def runs(recipe: Recipe, results: Sequence[Result]) -> str:
    """The sentence on the runs of a recipe."""
    begin = f"{recipe.which} was run" if recipe.which else "Run"
    threads = f"{_number(results[0].threads, 'thread')} ({_listed(each.processor for each in results)}, no GPU)"
    seconds = f"{fmean(each.cpu_seconds for each in results):.0f} CPU seconds{' each' * (len(results) > 1)}"
    return (
        f"{begin} with {_seeds([each.seed for each in results])} on {threads}, "
        f"{_commits(results)}: sampled pass@1 {rise(results)} in "
        f"{_number(max(each.iterations for each in results), 'iteration')}, {seconds}."
    )


def rise(results: Sequence[Result]) -> str:
    """The accuracy before and after training: means over seeds and, of several, the lowest and highest after it."""
    return f"{100 * fmean(each.start for each in results):.1f}% -> {_spread([each.end for each in results])}"


def row(method: str, rows: Rows) -> str:
    """The sentences on a method's row in the small tables."""
    sentences = [text for task in rows.tasks if (text := _row_of_task(method, task, rows))]
    if not sentences:
        return "Its row of the small tables (docs/small_tables.md) has not been run yet: make study."
    where = "docs/small_tables.md, by make study, on policies of half a million parameters"
    return f"Its row of the small tables ({where}): {' '.join(sentences)}"


def _row_of_task(method: str, task: str, rows: Rows) -> str:
    """The sentence on a method's row on a task; empty if it has no run there."""
    outcomes = rows.of(task, method)
    if not outcomes:
        return ""
    found = list(outcomes.values())
    processors = f"on one thread ({_listed(each.processor or 'unknown processor' for each in found)})"
    begin = f'"{rows.spec.tasks[task].title}", {_seeds(list(outcomes))}, {processors}, {_commits(found)}'
    start = [each.start for each in found]
    if not all(each.trained for each in found):
        return f"{begin}: sampled pass@1 {_spread(start)}."
    ends = ", ".join(_budget(found, budget, rows.spec.budgets[budget]) for budget in BUDGETS)
    early = sum(bool(each.error) for each in found)
    return (
        f"{begin}: sampled pass@1 {100 * fmean(start):.1f}% -> {ends}"
        + (f"; {early} of {len(found)} runs diverged or starved" if early else "")
        + "."
    )


def _budget(outcomes: Sequence[Outcome], budget: str, size: int) -> str:
    seconds = fmean(each.at[budget].cpu_seconds for each in outcomes)
    accuracy = _spread([each.accuracy(budget) for each in outcomes])
    return f"{accuracy} after {size:,} {budget} ({seconds:.0f} CPU seconds of training)"


def _spread(values: Sequence[float]) -> str:
    """A mean in percent and, of several values, the lowest and the highest: `79.1% (seeds from 78.0 to 80.3)`."""
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * fmean(values):.1f}%" + (f" (seeds from {low:.1f} to {high:.1f})" if len(values) > 1 else "")


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]} (one seed)"
    return f"seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"


def _commits(runs: Iterable[Result | Outcome]) -> str:
    found = list(dict.fromkeys(each.commit or "unknown" for each in runs))
    return f"{'commits' if len(found) > 1 else 'commit'} {_listed(found)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _number(count: int, noun: str) -> str:
    return f"one {noun}" if count == 1 else f"{count} {noun}s"
