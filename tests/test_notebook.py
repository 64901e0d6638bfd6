"""`examples/sweep.ipynb`: its cells run from the top to the bottom, and it is kept without outputs."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rence_lightning.evaluation import read_evaluations

FILE = Path(__file__).parent.parent / "examples" / "sweep.ipynb"
CELLS = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
SMALLER = {"ITERATIONS = 5": "ITERATIONS = 2", '"evaluation": {"every": 2}': "**SMALL"}
SMALL = {
    "data": {"prompts_per_iteration": 4, "prompts_per_update": 2, "prompts_per_draw": 8},
    "evaluation": {"every": 2, "limit": 8, "repeats": 1},
    "trainer": {"cpu_threads": 1},
}


def displayed(cell: str, names: dict[str, Any]) -> Any:
    """Runs a cell; the value of its last line, where that is an expression, which a notebook displays."""
    *statements, last = ast.parse(cell).body
    exec(compile(ast.Module(statements, []), FILE.name, "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), FILE.name, "eval"), names)
    exec(compile(ast.Module([last], []), FILE.name, "exec"), names)
    return None


def test_the_cells_run_and_tell_three_learning_rates_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer iterations and problems."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook", "SMALL": SMALL}
    shown = []
    for cell in (cell for cell in CELLS if cell["cell_type"] == "code"):
        text = "".join(cell["source"])
        for before, after in SMALLER.items():
            text = text.replace(before, after)
        shown.append(displayed(text, names))
    result, figure, metrics, rates, page = (each for each in shown if each is not None)
    assert len(read_evaluations(result.run_dir / "evaluations.jsonl")) == 2 and "data:image/png" in result._repr_html_()
    assert len(metrics) == 2 and len(figure.axes) == 4
    labels = ["lr 1e-5", "lr 1e-4", "lr 1e-3"]
    assert [text.get_text() for text in rates.axes[0].get_legend().texts] == labels
    html = page.read_text()
    table = re.sub(r"<[^>]+>", " ", re.findall(r"<table>.*?</table>", html, re.S)[0])
    assert re.search(r"1e-5 .* 1e-4 .* 1e-3 ", " ".join(table.split())) and "3 runs of 3 settings" in html
    assert all(f">{label}<" in html for label in labels)


def test_it_holds_no_outputs() -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS if cell["cell_type"] == "code")
