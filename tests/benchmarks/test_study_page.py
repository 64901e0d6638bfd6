"""docs/results.md: its tables are those of the results, and say what numpy and scipy find in them."""

import re
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from command_line import CONF, ROOT
from scipy import stats

from benchmarks.study import page
from benchmarks.study.results import Outcome, read_lines, read_outcomes
from benchmarks.study.runs import Cell, Runs
from benchmarks.study.spec import BUDGETS, Spec, load_spec
from benchmarks.study.study import RECIPES, runs_of
from rence_lightning.errors import UserError

SPEC, TABLE1 = (load_spec(ROOT / "benchmarks" / "study" / f"{name}.yaml") for name in ("study", "table1"))
RESULTS = ROOT / "benchmarks" / "study" / "results"
OUTCOMES = read_outcomes(RESULTS)
RECIPE_RUNS = read_lines(RESULTS / RECIPES, dict)
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "spec", "outcomes", "recipe_runs"),
    [("results.md", SPEC, OUTCOMES, RECIPE_RUNS), ("table1.md", TABLE1, read_outcomes(RESULTS / "table1"), [])],
)
def test_a_page_is_that_of_the_results_and_nothing_is_missing(
    name: str, spec: Spec, outcomes: list[Outcome], recipe_runs: list[Any], tmp_path: Path
) -> None:
    text, written = (ROOT / "docs" / name).read_text(encoding="utf-8"), tmp_path / name
    written.write_text(re.sub(r"(<!-- study: .* -->\n)[^<]*?(<!-- end -->)", r"\1stale\n\2", text), encoding="utf-8")
    assert written.read_text(encoding="utf-8") != text
    page.write(spec, outcomes, recipe_runs, written)
    assert written.read_text(encoding="utf-8") == text, (
        "write it again, as make study and make table1 do, with --report_only true"
    )
    assert "Not finished" not in text and len(text.splitlines()) <= 360
    for figure in re.findall(r"\]\((figures/.*?)\)", text):
        drawn, kept = (ElementTree.parse(folder / figure) for folder in (tmp_path, ROOT / "docs"))
        texts = [
            sorted(each.text or "" for each in tree.iter("{http://www.w3.org/2000/svg}text")) for tree in (drawn, kept)
        ]
        assert texts[0] == texts[1] and set(spec.trained) <= set(texts[0])


def test_a_page_without_a_place_for_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("")
    with pytest.raises(UserError, match="it has no lines"):
        page.write(SPEC, OUTCOMES, RECIPE_RUNS, tmp_path / "empty.md")


def accuracies(task: str, method: str, rate: float, budget: str, **level: str) -> np.ndarray[Any, Any]:
    """In percent, by seed, straight from the lines."""
    wanted = {"task": task, "method": method, "learning_rate": rate, "split": "test", "question": "", **level}
    found = {each.seed: each for each in OUTCOMES if all(getattr(each, k) == v for k, v in wanted.items())}
    assert sorted(found) == list(SPEC.seeds)
    return np.array([100 * found[seed].at[budget].accuracy for seed in SPEC.seeds])


def shown(sample: np.ndarray[Any, Any], form: str) -> str:
    low, high = stats.t.interval(0.95, 4, sample.mean(), stats.sem(sample))
    return f"{sample.mean():{form}} [{low:{form}}, {high:{form}}]"


def cells(begin: str, row: str) -> list[str]:
    """The cells of the first row that begins so, after a text of the page."""
    line = next(line for line in PAGE.partition(begin)[2].splitlines() if line.startswith(row))
    return [cell.strip(" *†") for cell in line.strip("|").split("|")]


def test_means_and_paired_differences_are_those_of_scipy() -> None:
    for budget, column in (("responses", 3), ("updates", 5)):
        rence = accuracies("gym", "ReNCE", 4e-4, budget)
        grpo = accuracies("gym", "GRPO", 2e-4, budget)
        row = cells("**reasoning-gym.**", "| GRPO |")
        assert row[column : column + 2] == [shown(grpo, ".1f"), shown(grpo - rence, "+.1f")]
    values = [
        accuracies("gym", method, 4e-4, "updates", question="group_size", level="16") for method in ("ReNCE", "DAPO")
    ]
    row = cells("**K: responses to a prompt.**", "| 16 | 16 updates |")
    assert (row[3], row[5], row[7]) == (*(shown(each, ".1f") for each in values), shown(values[1] - values[0], "+.1f"))


def test_bold_excludes_0_a_dagger_remains_and_the_counts_are_theirs() -> None:
    text = PAGE.partition("<!-- study: tables -->")[2].partition("Rows compared with another one")[0]
    found = re.findall(r"\| (\**)([-+][\d.]+) \[([-+][\d.]+), ([-+][\d.]+)\](†?)", text)
    for bold, _, low, high, dagger in found:
        assert bool(bold) == (float(low) > 0 or float(high) < 0) and (bold or not dagger)
    counts = [int(each) for each in re.findall(r"Of (\d+) differences to ReNCE, (\d+) have.*?The (\d+) with", text)[0]]
    assert counts == [len(found), sum(bool(each[0]) for each in found), sum(bool(each[4]) for each in found)]
    assert len(found) == len(SPEC.main_tasks) * len(BUDGETS) * (len(SPEC.trained) - 1)


def test_the_sentences_that_answer_count_what_the_tables_have() -> None:
    """Above and below ReNCE, in the order of the columns; a level that shares its runs with another counts once."""
    text = PAGE.partition("<!-- study: tables -->")[2]
    said = re.findall(r"(\d+) / (\d+) on", text.splitlines()[1])
    for task, title in enumerate(("**reasoning-gym.**", "**Chains.**")):
        rows = [line.split("|") for line in text.partition(title)[2].split("\n\n")[1].splitlines()]
        for budget in range(2):
            signs = [row[5 + 2 * budget].strip()[2:3] for row in rows if row[5 + 2 * budget].strip().startswith("**")]
            assert said[2 * budget + task] == (str(signs.count("+")), str(signs.count("-")))
    text = PAGE.partition("<!-- study: questions -->")[2].partition("<!-- end -->")[0]
    rivals = re.findall(r"^\| ([A-Z].*?) \| (\d+) / (\d+) / \d+ \| (\d+) / (\d+) / \d+ \|$", text, re.M)
    totals = [str(sum(int(row[column]) for row in rivals)) for column in range(1, 5)]
    assert re.findall(r"ahead in (\d+) of 37 comparisons and its rival in (\d+)", text) == [
        (totals[1], totals[0]),
        (totals[3], totals[2]),
    ]
    columns = {"Semi-online DPO - ReNCE": "Semi-online DPO", "DAPO (t_easy 0.5) - ReNCE": "DAPO (t_easy 0.5)"}
    for heading, rival in columns.items():
        rows = [line.split("|") for line in text.partition(heading)[2].partition("\n\n")[0].splitlines()[2:]]
        for budget, at in enumerate(("4,096 responses", "16 updates")):
            values = [row[6].strip() for row in rows if row[2].strip() == at]
            (counts,) = [row[1 + 2 * budget : 3 + 2 * budget] for row in rivals if row[0] == rival]
            assert counts == tuple(str(sum(v.startswith(f"**{sign}") for v in values)) for sign in "+-"), (rival, at)


def test_a_part_of_the_runs_has_tables_too_and_says_what_is_missing() -> None:
    some = [each for each in OUTCOMES if not (each.method == "GRPO" and each.seed == 3)]
    assert "Not finished" in page.facts(Runs(SPEC, some), some)
    none: list[Outcome] = []
    assert "| GRPO | 1 | 60.3 |  |  |  |  |" in page.tables(Runs(SPEC, none)) and page.questions(Runs(SPEC, none))


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.stem)
def test_a_header_has_a_command_and_one_line_that_says_what_the_results_say(file: Path) -> None:
    header = re.match(r"(#.*\n)+", file.read_text(encoding="utf-8"))
    assert header, "a configuration begins with a comment"
    name, line = str(file.relative_to(ROOT)), header[0].splitlines()[-1]
    assert re.search(rf"--config {name}\b", header[0]) and len(line) <= 120
    if name in SPEC.recipes and (found := runs_of(name, SPEC.recipes[name], RECIPE_RUNS)):
        start, end, seconds = (100 * fmean(each["start"] for each in found), fmean(each["end"] for each in found), 0)
        seconds = fmean(each["cpu_seconds"] for each in found)
        assert f"{start:.1f} -> {100 * end:.1f}% sampled pass@1 in {seconds:.0f} CPU seconds" in line
    else:
        measured = re.search(r"-> [\d.]+% sampled pass@1", header[0]) and "seeds 0 to 2" in header[0]
        assert line.startswith("# Not run yet") or measured
    runs = Runs(SPEC, OUTCOMES)
    for method, about in SPEC.methods.items():
        if about.config == name and name.startswith("conf/paper"):
            gym, chains = (runs.mean(Cell(task, method), "responses") for task in ("gym", "chains"))
            assert gym and chains and f"5.4 -> {gym.mean:.1f}% (gym), 28.1 -> {chains.mean:.1f}% (chains)" in line
