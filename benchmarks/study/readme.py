"""The table of results in README.md, written from the outcomes between two markers."""

from pathlib import Path

from benchmarks.markdown import table
from benchmarks.study.outcome import BUDGETS, Outcome
from benchmarks.study.rows import Rows
from benchmarks.study.spec import Spec
from benchmarks.study.statistics import cell
from rence_lightning.errors import UserError

MARKERS = ("<!-- by python -m benchmarks.study -->\n", "<!-- end -->\n")


def write(outcomes: list[Outcome], spec: Spec, readme: Path) -> None:
    """Replaces the table in a README.

    Raises:
        UserError: The file has no place for it.
    """
    start, end = MARKERS
    before, found, rest = readme.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{readme}: it has no lines {start.strip()!r} and {end.strip()!r}; add both")
    readme.write_text(f"{before}{start}{summary(Rows(spec, outcomes))}\n{end}{after}", encoding="utf-8")


def summary(rows: Rows) -> str:
    """The methods of the first table on every finished task, at each budget: means over seeds with 95% intervals."""
    spec = rows.spec
    methods = [row.method for row in spec.tables[0].rows]
    lines = []
    for task in rows.tasks:
        for budget in BUDGETS:
            about = f"{spec.tasks[task].title}, {spec.budgets[budget]:,} {budget}"
            lines.append([about, *(cell(rows.mean(task, method, budget)) for method in methods)])
    return table([f"sampled pass@1, %, {len(spec.seeds)} seeds", *methods], lines)
