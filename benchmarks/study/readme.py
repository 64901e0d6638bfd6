"""The table of results in README.md, written from the outcomes between two markers."""

from pathlib import Path

from benchmarks.between import replaced
from benchmarks.markdown import table
from benchmarks.study.outcome import BUDGETS, Outcome
from benchmarks.study.rows import Rows
from benchmarks.study.spec import Spec
from benchmarks.study.statistics import cell

MARKERS = ("<!-- by python -m benchmarks.study -->", "<!-- end -->")


def write(outcomes: list[Outcome], spec: Spec, readme: Path) -> None:
    """Replaces the table in a README.

    Raises:
        UserError: The file has no place for it.
    """
    readme.write_text(replaced(readme, *MARKERS, f"{summary(Rows(spec, outcomes))}\n"), encoding="utf-8")


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
