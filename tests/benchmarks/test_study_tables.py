"""The page of the tables: what it says is what numpy and scipy find in the same outcomes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study.outcome import BUDGETS, Outcome, Point
from benchmarks.study.rows import Rows
from benchmarks.study.spec import Spec, load_spec
from benchmarks.study.statistics import mean_interval
from benchmarks.study.tables_figures import clip, curves, differences, reached
from benchmarks.study.tables_page import write

SPEC = load_spec(Path("benchmarks/study/study.yaml"))
STARVED = "iteration 2: none of the 1280 sampled groups can be trained on"


def run(task: str, method: str, rate: float | None, split: str, seed: int, accuracy: float, error: str = "") -> Outcome:
    """A run that reaches the budget of updates at half of its responses, and is two points better at the end."""
    middle = Point(8, 16, 2100, 10.0, accuracy)
    end = Point(16, 32, 4200, 20.0, accuracy + 0.02)
    at = {"responses": end, "updates": middle}
    trained = rate is not None
    return Outcome(
        *("tables", task, method, rate, split, seed),
        start=0.1,
        curve=(middle, end) if trained else (),
        at=at if trained else {},
        error=error,
        commit="abc",
    )


def accuracy_of(method: str, seed: int) -> float:
    """ReNCE about 0.5; the sixth, Constant margin, is 0.2 above it with every seed, Iterative 0.4 below."""
    shift = {"Constant margin": 0.2, "Iterative": -0.4}.get(method, 0.0)
    random = np.random.default_rng([seed, *method.encode()])
    return float(np.clip(0.5 + shift + 0.01 * seed + random.uniform(-0.02, 0.02), 0, 0.97))


def outcomes_of(spec: Spec, task: str) -> list[Outcome]:
    """All runs of a task; the rate 0.0004 is the best, by three points."""
    found = [run(task, "No training", None, "test", seed, 0.1) for seed in spec.seeds]
    for method in spec.methods_of(task)[1:]:
        error = STARVED if method == "Iterative" else ""
        if not spec.tasks[task].rates_of:
            for rate in spec.learning_rates:
                for seed in spec.selection_seeds:
                    accuracy = accuracy_of(method, 0) + 0.03 * (rate == 4e-4)
                    found.append(run(task, method, rate, "validation", seed, accuracy))
        found += [run(task, method, 4e-4, "test", seed, accuracy_of(method, seed), error) for seed in spec.seeds]
        found += [run(task, method, 2e-4, "test", seed, 0.01) for seed in spec.seeds]  # of a rate that is not chosen
        if method in spec.repeated and not spec.tasks[task].rates_of:
            fresh = 0.9 if method == "DAPO" else float(np.mean([accuracy_of(method, each) for each in spec.seeds]))
            found += [run(task, method, 4e-4, "repeat", seed, fresh) for seed in spec.repeat_seeds]
    return found


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Gym complete, chains without two seeds of GRPO, graded not begun."""
    chains = outcomes_of(SPEC, "chains")
    missing = [each for each in chains if (each.method, each.split) == ("GRPO", "test") and each.seed in (3, 4)]
    return [*outcomes_of(SPEC, "gym"), *(each for each in chains if each not in missing)]


@pytest.fixture(scope="module")
def docs(outcomes: list[Outcome], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "new"
    write(outcomes, SPEC, folder)
    return folder


@pytest.fixture(scope="module")
def page(docs: Path) -> str:
    return (docs / "small_tables.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """The text from a title of the second level to the next one."""
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def cells(text: str, label: str) -> list[list[str]]:
    """The cells of all rows of tables whose first cell begins with the label."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row[1:] for row in rows if row[0] == label or row[0].startswith(f"{label} (")]


def numbers(cell: str) -> list[float]:
    return [float(each) for each in re.findall(r"[-+]?\d+\.\d+", cell)]


def test_means_and_paired_differences_are_those_of_the_outcomes(page: str) -> None:
    text = section(page, SPEC.tasks["gym"].title)
    rence = np.array([accuracy_of("ReNCE", seed) for seed in SPEC.seeds])
    for method in ("GRPO", "Constant margin", "Iterative", "NFT"):
        values = np.array([accuracy_of(method, seed) for seed in SPEC.seeds])
        row = cells(text, method)[0]
        for column, gain in ((0, 0.02), (2, 0.0)):  # responses, then updates
            mean, low, high = numbers(row[column])
            assert mean == pytest.approx(100 * (values.mean() + gain), abs=0.051) and low < mean < high
            mean, low, high = numbers(row[column + 1])
            expected = mean_interval(list(100 * (values - rence)))
            assert (mean, low, high) == pytest.approx((expected.mean, expected.low, expected.high), abs=0.051)
            assert row[column + 1].startswith("**") == (low > 0 or high < 0)
    assert cells(text, "ReNCE")[0][1] == ""
    assert "Iterative (5 ended early)" in text and STARVED in text


def test_the_answer_names_the_methods_whose_interval_excludes_0(page: str) -> None:
    text = section(page, "The answer")
    line = next(each for each in text.splitlines() if each.startswith(f"- {SPEC.tasks['gym'].title}, at 16 updates"))
    above, below = line.split("above ReNCE")[1].split(";")[0], line.split("below ReNCE")[1]
    assert "Constant margin (+" in above and "Iterative (-" in below
    bold = section(page, SPEC.tasks["gym"].title) + section(page, SPEC.tasks["chains"].title)
    found = {
        (task, method, column)
        for task in ("gym", "chains")
        for method in SPEC.methods_of(task)[1:]
        for column in (1, 3)
        for label in [next(r.label for t in SPEC.tables for r in t.rows if r.method == method)]
        if cells(section(page, SPEC.tasks[task].title), label)[0][column].startswith("**")
    }
    count, apart = (int(each) for each in re.findall(r"Of (\d+) differences to ReNCE, (\d+) have", text)[0])
    assert (count, apart) == (4 * (len(SPEC.methods_of("gym")) - 2), len(found)) and bold.count("**") >= 2 * apart


def test_costs_and_rates_are_those_of_the_runs(page: str) -> None:
    text = section(page, SPEC.tasks["gym"].title).split("### Costs")[1]
    assert cells(text, "GRPO")[0] == [
        *("0.0004", "4,200", "32", "20", "2,100", "16", "10"),
        f"{100 * (np.mean([accuracy_of('GRPO', seed) for seed in SPEC.seeds]) + 0.02 * 1996 / 2100):.1f}",
    ]
    row = cells(section(page, "The choice of learning rates"), "GRPO")[0]
    assert [cell.startswith("**") for cell in row] == [False, True, False]
    assert numbers(row[0])[0] == pytest.approx(100 * (accuracy_of("GRPO", 0) + 0.01), abs=0.051)


def test_fresh_means_are_compared_with_the_first_intervals(page: str) -> None:
    text = section(page, "The same rows on fresh seeds")
    rows = cells(text, SPEC.tasks["gym"].title)
    assert [(row[0], *row[-2:]) for row in rows] == [
        *[("ReNCE", "yes", "yes")] * 2,
        *[("GRPO", "yes", "yes")] * 2,
        *[("DAPO", "no", "no")] * 2,
    ]


def test_missing_runs_are_named_and_other_studies_left_out(page: str, outcomes: list[Outcome], tmp_path: Path) -> None:
    assert "The study is not finished" in page and "GRPO (3 of 5 seeds)" in section(page, SPEC.tasks["chains"].title)
    assert f"\n## {SPEC.tasks['graded'].title}\n" not in page
    write([replace(each, study="when", question="K", level="8") for each in outcomes], SPEC, tmp_path)
    assert "## The answer" not in (tmp_path / "small_tables.md").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.png"))


def test_a_task_with_few_rows_has_the_tables_that_compare_something(outcomes: list[Outcome], tmp_path: Path) -> None:
    wanted = [each for each in outcomes if each.task == "chains"]
    write([*wanted, *outcomes_of(SPEC, "graded")], SPEC, tmp_path)
    text = section((tmp_path / "small_tables.md").read_text(encoding="utf-8"), SPEC.tasks["graded"].title)
    assert "### Table 1" in text and "### Table 4" not in text and not cells(text, "PACS")


def test_figures_have_a_panel_for_each_table_or_task_and_budget(docs: Path, outcomes: list[Outcome]) -> None:
    rows = Rows(SPEC, outcomes)
    drawn = curves(rows, "gym")
    assert len(drawn.axes) == len(SPEC.tables) * len(BUDGETS)
    assert len(drawn.axes[0].get_lines()) == 4  # the trained rows of Table 1
    assert len(differences(rows).axes) == 2 * len(BUDGETS)
    files = ["small_tables_chains.png", "small_tables_differences.png", "small_tables_gym.png"]
    assert sorted(path.name for path in docs.glob("*.png")) == files
    assert all((docs / name).read_bytes().startswith(b"\x89PNG") for name in files)


def test_a_curve_takes_the_first_evaluation_at_a_share_and_the_last_of_a_run_that_ended() -> None:
    whole = run("gym", "GRPO", 4e-4, "test", 0, 0.5)
    assert reached(whole, "responses", 0.5, 4096) == whole.curve[0]
    assert reached(whole, "responses", 1.0, 4096) == whole.curve[1]
    short = replace(whole, curve=whole.curve[:1], at=dict.fromkeys(BUDGETS, whole.curve[0]))
    assert reached(short, "responses", 1.0, 4096) == short.curve[0]
    near, far = mean_interval([1.0, 1.2, 0.8]), mean_interval([-60.0, -61.0, -59.0])
    assert 1.2 < clip([near] * 9 + [far]) < 10 and clip([near, far]) > 60
