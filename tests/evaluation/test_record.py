"""The evaluation's table and its lines in `evaluations.jsonl`."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from rence_lightning.errors import UserError
from rence_lightning.evaluation import append_evaluation, evaluation_table, read_evaluations

ENDS = {"avg_low": 0.2, "avg_high": 0.345}
ONE = {"avg": 0.26, "std": 0.0123, **ENDS, "pass": 0.71, "answered": 0.995, "truncated": 0.0, "length": 1234.4}
TWO = {"avg": 0.5, "std": 0.02, **ENDS, "pass": 0.75, "answered": 1.0, "truncated": 0.25, "length": 2000.0}


def printed(table: Table) -> list[list[str]]:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    return [
        [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]
        for line in lines
        if "│" in line or "┃" in line
    ]


def test_one_benchmark_has_no_macro_average() -> None:
    rows = printed(evaluation_table({"arithmetic": ONE}, repeats=4, title="iteration 5"))
    assert rows == [
        ["benchmark", "avg@4 %", "95% interval", "pass@4 %", "answered %", "truncated %", "length"],
        ["arithmetic", "26.0 ± 1.2", "20.0 - 34.5", "71.0", "99.5", "0.0", "1,234"],
    ]


def test_several_end_in_their_unweighted_mean() -> None:
    rows = printed(evaluation_table({"[a]": ONE, "b": TWO}, repeats=1, title=""))
    assert [row[0] for row in rows] == ["benchmark", "[a]", "b", "macro average"]
    assert rows[1][1] == "26.0"
    assert rows[-1][1:] == ["38.0", "", "73.0", "99.8", "12.5", "1,617"]


def test_lines_are_appended_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    assert read_evaluations(path) == []
    append_evaluation(path, 0, {"arithmetic": ONE})
    append_evaluation(path, 5, {"arithmetic": ONE, "other": TWO})
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"iteration": 0, "average": 0.26, "benchmarks": {"arithmetic": ONE}}
    assert [record["iteration"] for record in read_evaluations(path)] == [0, 5]
    assert read_evaluations(path)[1]["average"] == pytest.approx(0.38)


def test_bad_figures_and_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    with pytest.raises(ValueError, match="JSON compliant"):
        append_evaluation(path, 0, {"arithmetic": {**ONE, "avg": math.nan}})
    append_evaluation(path, 0, {"arithmetic": ONE})
    with path.open("a") as file:
        file.write('{"iteration": 5, "aver')
    with pytest.raises(UserError, match=r"evaluations\.jsonl, line 2: not an evaluation's record"):
        read_evaluations(path)
