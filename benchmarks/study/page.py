"""The tables and curves of a page, written between their markers from the results alone."""

import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.between import replaced
from benchmarks.markdown import table
from benchmarks.study import curves
from benchmarks.study.results import Outcome
from benchmarks.study.runs import Cell, Runs
from benchmarks.study.spec import BUDGETS, REFERENCE, Question, Spec
from benchmarks.study.statistics import Interval, remaining
from benchmarks.study.study import RecipeRun, runs_of

Place = tuple[Cell, str]
"""A cell of a trained method, and a budget."""


def write(spec: Spec, outcomes: Sequence[Outcome], recipe_runs: Sequence[RecipeRun], page: Path) -> None:
    """Writes the tables of a page, each between its markers `<!-- study: NAME -->` and `<!-- end -->`, and its figures.

    Args:
        spec: Specification of the studies.
        outcomes: Finished runs of the studies, which may be a part.
        recipe_runs: Finished runs of the recipes.
        page: Page in Markdown that has the markers.

    Raises:
        UserError: The page cannot be read, or has no place for a table.
    """
    runs = Runs(spec, outcomes)
    parts = {
        "tables": tables(runs),
        "rates": rates(runs),
        "fresh seeds": fresh_seeds(runs),
        "facts": facts(runs, outcomes),
        **({"questions": questions(runs)} if spec.questions else {}),
        **({"recipes": recipes(spec, recipe_runs)} if spec.recipes else {}),
        **({"curves": figures(runs, page)} if spec.curves else {}),
    }
    for name, text in parts.items():
        page.write_text(replaced(page, f"<!-- study: {name} -->", "<!-- end -->", f"{text}\n"), encoding="utf-8")


def figures(runs: Runs, page: Path) -> str:
    """Draws the curves of each task beside the page, and links them."""
    links = []
    for task in runs.spec.main_tasks:
        file = Path("figures", f"{page.stem}-{task}.svg")
        curves.draw(runs, task, page.parent / file)
        links.append(f"**{runs.spec.tasks[task].title}**\n\n![Curves of all methods on this task]({file})")
    return "\n\n".join(links)


def differences(runs: Runs, cells: Sequence[Cell]) -> dict[Place, Interval]:
    """The paired differences of trained methods to the reference in the same place, at each budget."""
    return {
        (cell, budget): found
        for cell in cells
        for budget in BUDGETS
        if cell.method not in (REFERENCE, runs.spec.untrained) and (found := runs.difference(cell, budget)) is not None
    }


def difference(each: Interval | None, remains: bool = False) -> str:
    """A difference in a table: bold where its interval excludes 0, with a dagger where it remains after correction."""
    text = "" if each is None else f"{each:+.1f}{'†' * remains}"
    return f"**{text}**" if each is not None and each.sign else text


def mean(each: Interval | None) -> str:
    """A mean with its interval in a table; empty without a run."""
    return "" if each is None else f"{each:.1f}"


def tables(runs: Runs) -> str:
    """The rows of the paper and of the family on each task, compared with ReNCE and with the paper's references."""
    spec = runs.spec
    cells = [cell for cell in runs.cells() if not cell.question]
    found = differences(runs, cells)
    kept = remaining(found)
    apart = sum(each.sign != 0 for each in found.values())
    parts = [
        _answer(spec, found),
        f"Of {len(found)} differences to {REFERENCE}, {apart} have a 95% interval that excludes 0 (bold); if none "
        f"differed, {len(found) / 20:.1f} would on average, many at once or none, because all share the runs of "
        f"{REFERENCE}. The {len(kept)} with a † remain after Holm's correction for {len(found)}; the others are to be "
        "read as hints.",
    ]
    for task in spec.main_tasks:
        titles = ["method", "paper's tables", "paper, Qwen3-4B"]
        titles += [title for budget in BUDGETS for title in (f"{spec.size(task, budget)}, %", f"minus {REFERENCE}")]
        rows = []
        for cell in (cell for cell in cells if cell.task == task):
            method = spec.methods[cell.method]
            row = [cell.method, method.tables, "" if method.paper is None else f"{method.paper:.1f}"]
            for budget in BUDGETS:
                row += [mean(runs.mean(cell, budget)), difference(found.get((cell, budget)), (cell, budget) in kept)]
            rows.append(row)
        parts.append(f"**{spec.tasks[task].title}.** {spec.tasks[task].about}.\n\n{table(titles, rows)}")
    others = {name: each.against for name, each in spec.methods.items() if each.against != REFERENCE}
    places = [(task, budget) for task in spec.main_tasks for budget in BUDGETS]
    rows = [
        [f"{name} - {other}", *(difference(runs.difference(Cell(t, name), budget, other)) for t, budget in places)]
        for name, other in others.items()
    ]
    titles = ["difference", *(spec.title(task, budget) for task, budget in places)]
    return "\n\n".join([*parts, f"Rows compared with another one, without a correction:\n\n{table(titles, rows)}"])


def _answer(spec: Spec, found: Mapping[Place, Interval]) -> str:
    """The tables in a sentence: how many methods are above the reference on each task, and how many below."""
    signs = Counter((cell.task, budget, each.sign) for (cell, budget), each in found.items())
    answers = []
    for budget in BUDGETS:
        above_below = {task: f"{signs[task, budget, 1]} / {signs[task, budget, -1]}" for task in spec.main_tasks}
        on = [f"{counts} on {spec.tasks[task].title}" for task, counts in above_below.items()]
        answers.append(f"at equal {budget} {', '.join(on)}")
    return f"**Methods above / below {REFERENCE}, of {len(spec.trained) - 1}: {'; '.join(answers)}.**"


def rates(runs: Runs) -> str:
    """The choice of learning rates, and what each method has spent where it is compared."""
    spec = runs.spec
    titles = ["method"]
    tried = {}
    for task in spec.main_tasks:
        title = spec.tasks[task].title
        tried[task] = sorted({rate for method in spec.trained for rate in runs.scores(task, method)})
        titles.append(f"{title}: validation, %, at {', '.join(f'{rate:g}' for rate in tried[task])}")
        titles += [f"spent at {spec.size(task, budget)}" for budget in BUDGETS]
    rows = []
    for method in spec.trained:
        row = [method]
        for task in spec.main_tasks:
            chosen, scores = runs.rate(task, method), runs.scores(task, method)
            texts = {rate: f"**{score:.1f}**" if rate == chosen else f"{score:.1f}" for rate, score in scores.items()}
            row.append(", ".join(texts.get(rate, "-") for rate in tried[task]))
            row += [spent(list(runs.of(Cell(task, method)).values()), budget, cpu=True) for budget in BUDGETS]
        rows.append(row)
    return table(titles, rows)


def spent(runs: Sequence[Outcome], budget: str, cpu: bool = False) -> str:
    """Mean responses, updates and CPU seconds of runs at the evaluation at which a budget is spent."""
    points = [run.at[budget] for run in runs]
    names = (*BUDGETS, *(["cpu_seconds"] if cpu else []))
    return " / ".join(f"{fmean(getattr(point, name) for point in points):,.0f}" for name in names) if points else ""


def fresh_seeds(runs: Runs) -> str:
    """Some rows once more, on seeds that were not used before."""
    spec = runs.spec
    titles = [title for budget in BUDGETS for title in (f"equal {budget}, %", "fresh seeds, %")]
    rows = [
        [spec.tasks[task].title, name]
        + [mean(runs.mean(Cell(task, name), budget, split)) for budget in BUDGETS for split in ("test", "repeat")]
        for task in spec.main_tasks
        for name in (spec.repeated if spec.tasks[task].repeat else ())
    ]
    return table(["task", "method", *titles], rows)


def questions(runs: Runs) -> str:
    """Each question as a table of its levels, after a sentence that answers and the counts by rival."""
    spec, answers = runs.spec, []
    found = differences(runs, [cell for cell in runs.cells() if cell.question])
    kept: set[Place] = set()
    counts: dict[str, list[str]] = {cell.method: [cell.method] for cell, _ in found}
    for budget in BUDGETS:
        places = [place for place in found if place[1] == budget]
        once = {_commands(runs, place[0]): place for place in reversed(places)}  # levels that share runs count once
        remain = remaining({commands: found[place] for commands, place in once.items()})
        kept |= {place for place in places if _commands(runs, place[0]) in remain}
        sides = Counter((place[0].method, found[place].sign) for place in once.values())
        above, below = (sum(sides[rival, sign] for rival in counts) for sign in (1, -1))
        answers.append(
            f"at equal {budget}, {REFERENCE} is ahead in {below} of {len(once)} comparisons and its rival in "
            f"{above} ({len(remain)} of these differences remain after Holm's correction, †)"
        )
        for rival, row in counts.items():
            row.append(" / ".join(str(sides[rival, sign]) for sign in (1, -1, 0)))
    titles = ["rival", *(f"equal {budget}: above {REFERENCE} / below / not told apart" for budget in BUDGETS)]
    answer = f"**In short: {'; '.join(answers)}.** In the others, the two cannot be told apart."
    parts = [answer, table(titles, [*counts.values()])]
    parts += [_question(runs, name, each, found, kept) for name, each in spec.questions.items()]
    return "\n\n".join(parts)


def _commands(runs: Runs, cell: Cell) -> tuple[tuple[str, ...], ...]:
    """The commands of a cell and of the reference in its place."""
    cells = (cell, cell._replace(method=REFERENCE))
    return tuple(run.command for each in cells for _, run in sorted(runs.of(each).items()))


def _question(runs: Runs, name: str, each: Question, found: Mapping[Place, Interval], kept: Collection[Place]) -> str:
    rivals = [method for method in each.methods if method != REFERENCE]
    titles = ["level", "at", "before", *each.methods, *(f"{rival} - {REFERENCE}" for rival in rivals), "spent"]
    rows = []
    for level, about in each.levels.items():
        cells = {method: Cell(about.task, method, name, level) for method in each.methods}
        for budget in BUDGETS:
            row = [
                level,
                runs.spec.size(about.task, budget),
                mean(runs.mean(Cell(about.task, runs.spec.untrained), budget)),
            ]
            row += [mean(runs.mean(cell, budget)) for cell in cells.values()]
            for place in ((cells[rival], budget) for rival in rivals):
                row.append(difference(found.get(place), place in kept))
            rows.append([*row, "; ".join(spent(list(runs.of(cell).values()), budget) for cell in cells.values())])
    return f"**{each.title}.** {each.about}.\n\n{table(titles, rows)}"


def recipes(spec: Spec, recipe_runs: Sequence[RecipeRun]) -> str:
    """The configurations that were run as users run them."""
    rows = []
    for file, recipe in spec.recipes.items():
        if found := runs_of(file, recipe, recipe_runs):
            ends = [100 * each["end"] for each in found]
            spread = f" ({min(ends):.1f} to {max(ends):.1f})" if len(ends) > 1 else ""
            cells = [
                f"[{recipe.title}](../{file})",
                f"{100 * fmean(each['start'] for each in found):.1f} -> {fmean(ends):.1f}{spread}",
                ", ".join(str(each["seed"]) for each in found),
                f"{fmean(each['iterations'] for each in found):.0f}",
                f"{fmean(each['cpu_seconds'] for each in found):.0f}",
                "; ".join(dict.fromkeys(f"{each['commit']}, {each['processor']}" for each in found)),
            ]
            rows.append(cells)
    return table(["configuration", "sampled pass@1, %", "seeds", "iterations", "CPU s", "commit, processor"], rows)


def facts(runs: Runs, outcomes: Sequence[Outcome]) -> str:
    """Where the runs were made, and what is missing of them."""
    once = {each.command: each for each in outcomes}.values()  # levels and tables share runs
    wanted = len(runs.spec.seeds)
    hours = sum(each.cpu_seconds for each in once) / 3600
    counts = [Counter(getattr(each, name) or "unknown" for each in once) for name in ("commit", "processor")]
    made = "; ".join(", ".join(f"{name} ({number} runs)" for name, number in each.items()) for each in counts)
    digests = sorted(
        {(each.task, "validation" if each.split == "validation" else "test", each.digest) for each in once}
    )
    lines = [f"{len(once)} runs of one thread each, {hours:.1f} CPU hours with evaluations: {made}."]
    if once and all(each[-1] for each in digests):
        lines.append(f"Digests of problems and policy: {'; '.join(map(' '.join, digests))}.")
    if early := [each for each in once if each.error]:
        names = [" ".join(filter(None, (each.method, each.task, each.question, each.level))) for each in early]
        where = [f"{name}, {each.split} seed {each.seed}" for name, each in zip(names, early, strict=True)]
        error = textwrap.shorten(early[0].error.replace("|", "/"), 100, placeholder=" ...")
        lines.append(f"Starved or diverged, and counted with the last policy: {'; '.join(where)} (the first: {error})")
    if missing := [cell for cell in runs.cells() if len(runs.of(cell)) < wanted]:
        lines.append(f"**Not finished: {len(missing)} cells have fewer than {wanted} seeds**, the first: {missing[0]}.")
    return "\n".join(f"- {line}" for line in lines)
