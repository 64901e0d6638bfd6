"""The small tables: what is run, what is run again, what is chosen, and what the tables say."""

import copy
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from benchmarks.small_tables.__main__ import command_line, small_tables
from benchmarks.small_tables.choice import best, choose_learning_rates
from benchmarks.small_tables.report import Outcome, report
from benchmarks.small_tables.runs import Job, Result, RunFailed, Runner
from benchmarks.small_tables.spec import Method, Row, Spec, Table, find_methods, load_spec
from rence_lightning.errors import UserError

RENCE = Method("ReNCE", "rence", (), trained=True)
GRPO = Method("GRPO", "grpo", (), trained=True)


def make_spec(**fields: Any) -> Spec:
    fields = {
        "base": "conf/rence.yaml",
        "overlay": "conf/small/arithmetic.yaml",
        "rollouts": 100,
        "learning_rates": (1e-4, 2e-4),
        "extend": 1,
        "selection_seeds": (100,),
        "seeds": (0, 1),
        "tables": (),
        **fields,
    }
    return Spec(**fields)


def make_result(accuracy: float, **fields: Any) -> Result:
    fields = {"curve": [(0, 0.25), (90, accuracy)], "responses": 90, "updates": 8, "cpu_seconds": 10.0, **fields}
    return Result([], accuracy, **fields)


class Scripted(Runner):
    """Runs a given program instead of training, and counts."""

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder, processes=2)
        self.program = program
        self.executed: list[Job] = []

    def _execute(self, job: Job) -> Result:
        self.executed.append(job)
        return super()._execute(job)

    def _wait(self, command: list[str], log: Any) -> tuple[int, float]:
        run = next(word.removeprefix("--trainer.run_dir=") for word in command if "run_dir" in word)
        return super()._wait([sys.executable, "-c", self.program, run], log)


FINISHES = """
import sys, pathlib
run = pathlib.Path(sys.argv[1]); run.mkdir()
(run / "evaluations.jsonl").write_text(
    '{"iteration": 0, "average": 0.25, "benchmarks": {"arithmetic": {"std": 0.5}}}\\n'
    '{"iteration": 2, "average": 0.75, "benchmarks": {"arithmetic": {"std": 0.125}}}\\n'
)
(run / "metrics.csv").write_text(
    "iteration,train/loss,rollouts/responses_total\\n0,,\\n1,0.5,\\n1,,64.0\\n2,0.4,\\n2,0.3,\\n2,,128.0\\n"
)
"""
JOBS = [Job(RENCE, 1e-4, "test", seed) for seed in (0, 1)]


def test_a_runs_figures_are_read_from_its_files(tmp_path: Path) -> None:
    result = Scripted(tmp_path, FINISHES).run(JOBS, "")[JOBS[0]]
    assert (result.accuracy, result.responses, result.updates, result.error) == (0.75, 128, 3, "")
    assert [tuple(point) for point in result.curve] == [(0.0, 0.25), (128.0, 0.75)]
    assert (result.std, result.exit_code) == (0.125, 0)
    assert json.loads((tmp_path / JOBS[0].name / "finished.json").read_text())["responses"] == 128


def test_cpu_seconds_are_those_of_a_run_and_its_children(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.7: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])\n{burn}\n{FINISHES}"
    runner = Scripted(tmp_path, program)
    assert runner.run(JOBS[:1], "")[JOBS[0]].cpu_seconds >= 1.4
    asleep = Scripted(tmp_path / "asleep", f"import time; time.sleep(1.5)\n{FINISHES}")
    assert asleep.run(JOBS[:1], "")[JOBS[0]].cpu_seconds < 1.4


def test_nothing_runs_twice_but_what_was_interrupted_or_is_another_command(tmp_path: Path) -> None:
    first = Scripted(tmp_path, FINISHES)
    first.run(JOBS, "")
    assert sorted(job.seed for job in first.executed) == [0, 1]
    (tmp_path / JOBS[1].name / "finished.json").unlink()  # as if it had been killed
    again = Scripted(tmp_path, FINISHES)
    again.run(JOBS, "")
    assert again.executed == [JOBS[1]]
    changed = Scripted(tmp_path, FINISHES)
    changed.run([Job(Method("ReNCE", "rence", ("--data.group_size=4",), True), 1e-4, "test", 0)], "")
    assert len(changed.executed) == 1
    (tmp_path / JOBS[0].name / "finished.json").write_text("{")  # as if the disk had been full
    assert Scripted(tmp_path, FINISHES).finished(JOBS[0]) is None


def test_a_diverged_run_is_a_result_and_any_other_failure_stops(tmp_path: Path) -> None:
    program = FINISHES + "print('error: iteration 3: the norm is nan', file=sys.stderr); sys.exit(1)"
    result = Scripted(tmp_path / "a", program).run(JOBS[:1], "")[JOBS[0]]
    assert result.error == "iteration 3: the norm is nan" and (result.accuracy, result.exit_code) == (0.75, 1)
    with pytest.raises(RunFailed, match="exit code 3\nout of luck"):
        Scripted(tmp_path / "b", "import sys; print('out of luck'); sys.exit(3)").run(JOBS, "")
    assert not list((tmp_path / "b").rglob("finished.json"))


def test_a_crash_is_no_diverged_run_although_python_ends_with_1_too(tmp_path: Path) -> None:
    crashes = FINISHES + "raise RuntimeError('out of memory')"
    with pytest.raises(RunFailed, match="RuntimeError: out of memory"):
        Scripted(tmp_path / "a", crashes).run(JOBS[:1], "")
    starves = "import sys; print('error: nothing to train on', file=sys.stderr); sys.exit(1)"
    with pytest.raises(RunFailed, match=r"wrote no evaluation\nerror: nothing to train on"):
        Scripted(tmp_path / "b", starves).run(JOBS[:1], "")
    assert not list(tmp_path.rglob("finished.json"))


def test_a_failure_ends_the_other_runs(tmp_path: Path) -> None:
    program = """
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
sleeper = run.parents[1] / "lr-0.0001-test-seed-1"
def end(*_):
    (sleeper / "terminated").touch()
    sys.exit(143)
if "seed-1" in str(run):
    signal.signal(signal.SIGTERM, end)
    (sleeper / "ready").touch()
    time.sleep(120)
while not (sleeper / "ready").exists():
    time.sleep(0.05)
sys.exit(3)
"""
    with pytest.raises(RunFailed, match="seed-0: exit code 3"):
        Scripted(tmp_path, program).run(JOBS, "")
    assert (tmp_path / JOBS[1].name / "terminated").exists(), "the other run did not receive SIGTERM"
    assert not list(tmp_path.rglob("finished.json"))


def test_report_only_starts_nothing_and_names_what_is_missing(tmp_path: Path) -> None:
    Scripted(tmp_path, FINISHES).run(JOBS[:1], "")
    reader = Runner(tmp_path, processes=1, read_only=True)
    assert reader.run(JOBS[:1], "")[JOBS[0]].accuracy == 0.75
    with pytest.raises(UserError, match=f"tables: 1 of 2 runs .*{JOBS[1].name}.*--report-only"):
        reader.run(JOBS, "tables")
    assert not (tmp_path / JOBS[1].name).exists()


def test_tables_and_flags_are_read_as_they_are_typed() -> None:
    read = command_line().parse_args(["--tables", "1", "3", "--report-only", "--processes", "2"])
    assert (read.tables, read.report_only, read.processes) == ([1, 3], True, 2)
    assert (command_line().parse_args([]).tables, command_line().parse_args([]).report_only) == (None, False)


@pytest.mark.parametrize(
    ("peak", "tried"),
    [
        (2e-4, {1e-4, 2e-4, 4e-4}),  # inside: nothing more
        (8e-4, {1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3}),  # above, found; one more shows that it is the top
        (1e-1, {1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3}),  # above, never reached
        (5e-5, {2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4}),
    ],
)
def test_learning_rates_are_extended_while_the_best_is_at_an_end(peak: float, tried: set[float]) -> None:
    def run(jobs: list[Job]) -> dict[Job, Result]:
        assert all(job.split == "validation" for job in jobs), "the choice has seen test problems"
        return {
            job: make_result(1 / (1 + max(job.learning_rate or 0, peak) / min(job.learning_rate or 1, peak)))
            for job in jobs
        }

    scores = choose_learning_rates([RENCE], (1e-4, 2e-4, 4e-4), (100, 101), 2, run)
    assert set(scores[RENCE]) == tried
    assert best(scores[RENCE]) == min(tried, key=lambda rate: max(rate, peak) / min(rate, peak))


def test_scores_are_means_over_the_selection_seeds_of_each_method() -> None:
    values = {(RENCE, 100): 0.5, (RENCE, 101): 0.7, (GRPO, 100): 0.2, (GRPO, 101): 0.4}
    run = lambda jobs: {job: make_result(values[job.method, job.seed]) for job in jobs}  # noqa: E731
    scores = choose_learning_rates([RENCE, GRPO], (1e-4, 2e-4), (100, 101), 0, run)
    assert scores[RENCE] == pytest.approx({1e-4: 0.6, 2e-4: 0.6}) and scores[GRPO][1e-4] == pytest.approx(0.3)
    assert best(scores[RENCE]) == 1e-4, "of equals the lowest"


def test_rows_with_the_same_configuration_are_one_method() -> None:
    def row(name: str, table: str, **options: Any) -> Row:
        return Row(name, f"conf/paper/{table}.yaml", 0.0, options)

    rows = [
        row("ReNCE", "table1_rence"),
        row("ReNCE", "table3_rence_t_easy_0.5"),
        row("No margin", "table2_no_margin"),
        row("mNCE", "table4_mnce"),
        row("ReNCE", "table1_rence", **{"data.group_size": 4, "evaluation.limit": 7}),
    ]
    with ThreadPoolExecutor(2) as workers:
        found = find_methods(make_spec(), [Table("", tuple(rows))], workers)
    methods = [found[row] for row in rows]
    assert [methods.index(method) for method in methods] == [0, 0, 2, 2, 4]
    assert len({method.key for method in methods}) == 3, "two methods would write into one folder"
    assert (methods[0].repeats, methods[0].limit, methods[4].limit) == (4, None, 7)


def test_a_single_table_uses_the_runs_of_all_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"trainer": {"run_dir": "runs/x"}, "evaluation": {"repeats": 4, "limit": None}}
    monkeypatch.setattr("benchmarks.small_tables.spec.complete_config", lambda _: copy.deepcopy(config))
    tables = [{"title": "One", "rows": [{"name": "No margin", "config": "a.yaml", "paper": 1}]}]
    tables += [{"title": "Two", "rows": [{"name": "mNCE", "config": "b.yaml", "paper": 2}]}]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "tables": tables}))
    run = lambda self, jobs, title: {job: make_result(0.5) for job in asked.extend(jobs) or jobs}  # noqa: E731
    monkeypatch.setattr(Runner, "run", run)
    asked: list[Job] = []
    small_tables(tmp_path, tmp_path / "tiny.yaml")
    first, asked = asked, []
    small_tables(tmp_path, tmp_path / "tiny.yaml", tables=[2])
    assert asked == first
    assert "| mNCE | **50.0** | 50.0 |" in (tmp_path / "tables.md").read_text(), "the name is from another table"


def test_a_trained_row_and_the_same_row_validated_are_two_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"trainer": {"run_dir": "runs/x"}, "evaluation": {"repeats": 4, "limit": None}}
    monkeypatch.setattr("benchmarks.small_tables.spec.complete_config", lambda _: copy.deepcopy(config))
    start, trained = Row("Start", "a.yaml", 46.4, validate=True), Row("Trained", "a.yaml", 63.0)
    with ThreadPoolExecutor(1) as workers:
        found = find_methods(make_spec(), [Table("", (start, trained))], workers)
    assert (found[start].trained, found[trained].trained) == (False, True)
    assert found[start].key != found[trained].key
    assert "validate" in Job(found[start], None, "test", 0).command(Path("x"))
    assert "fit" in Job(found[trained], 1e-4, "test", 0).command(Path("x"))


def test_the_tables_say_what_was_measured() -> None:
    row, start = Row("ReNCE", "a.yaml", 63.0), Row("No training", "b.yaml", 46.4)
    untrained = Method("No training", "none", (), trained=False, repeats=4, limit=300)
    accuracies = [0.71, 0.74, 0.725]
    results = [make_result(accuracy) for accuracy in accuracies]
    results[1] = make_result(0.74, error="lost", commit="abc", cpu_seconds=40.0, responses=120, updates=2)
    outcome = Outcome(
        make_spec(),
        [Table("Table 1", (start, row))],
        {row: RENCE, start: untrained},
        {RENCE: {1e-4: 0.5, 2e-4: 0.625}},
        {RENCE: results, untrained: [make_result(0.25, responses=0, updates=0)]},
    )
    text = report(outcome, "the command", 2, "curves.png")
    spread = f"{100 * mean(accuracies):.1f} ± {100 * stdev(accuracies):.1f}"
    assert f"| ReNCE [1] | {spread} | 100 | 6 | 20 | 0.0002 | 63.0 |" in text
    assert "| No training | 25.0 | 0 | 0 | 10 |  | 46.4 |" in text
    assert "[1] ReNCE: 1 of 3 runs ended early: lost" in text
    assert "| ReNCE | 50.0 | **62.5** |" in text
    assert "evaluations: 300 problems of the test split, 300 problems of the validation split, 4 samples each" in text
    assert "commit of the tables' runs: not recorded, `abc`" in text
    assert "the command" in text and "![learning curves](curves.png)" in text


def test_a_wrong_specification_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tables.yaml"
    with pytest.raises(UserError, match=r"tables\.yaml: FileNotFoundError"):
        load_spec(path)
    good = yaml.safe_load((Path(__file__).parents[2] / "benchmarks" / "small_tables" / "tables.yaml").read_text())
    for change, words in (({"seedz": [1]}, "seedz"), ({"learning_rates": [1e-4]}, "at least two learning_rates")):
        path.write_text(yaml.safe_dump({**good, **change}))
        with pytest.raises(UserError, match=words):
            load_spec(path)


TINY = {
    "base": "conf/rence.yaml",
    "overlay": "conf/small/arithmetic.yaml",
    "rollouts": 32,
    "learning_rates": [1e-4, 2e-4],
    "extend": 0,
    "selection_seeds": [100],
    "seeds": [0],
}
OPTIONS = {
    "data.prompts_per_iteration": 2,
    "data.prompts_per_update": 1,
    "data.prompts_per_draw": 4,
    "evaluation.limit": 4,
    "evaluation.repeats": 1,
}


@pytest.mark.slow
def test_two_rows_from_the_command_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    rows: Sequence[dict[str, Any]] = [
        {
            "name": "No training",
            "config": "conf/paper/table1_no_training.yaml",
            "validate": True,
            "paper": 46.4,
            "options": OPTIONS,
        },
        {"name": "Random pair", "config": "conf/paper/table4_random_pair.yaml", "paper": 60.2, "options": OPTIONS},
    ]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "tables": [{"title": "T", "rows": list(rows)}]}))
    small_tables(tmp_path / "out", tmp_path / "tiny.yaml")
    files = sorted((tmp_path / "out" / "runs").rglob("finished.json"))
    names = [str(file.parent.relative_to(tmp_path / "out" / "runs")) for file in files]
    tests = [name for name in names if "-test-" in name]
    assert set(names) - set(tests) == {
        "table1_no_training/test-seed-0",
        "table4_random_pair/lr-0.0001-validation-seed-100",
        "table4_random_pair/lr-0.0002-validation-seed-100",
    }
    assert len(tests) == 1 and tests[0].startswith("table4_random_pair/lr-0.000")
    result = json.loads(next(file for file in files if "lr-" in str(file) and "test" in file.parent.name).read_text())
    assert result["responses"] >= 32 and result["updates"] >= 1 and result["cpu_seconds"] > 1
    assert "| Random pair |" in (tmp_path / "out" / "tables.md").read_text()
    made = {file: file.stat().st_mtime_ns for file in files}
    small_tables(tmp_path / "out", tmp_path / "tiny.yaml", tables=[1], report_only=True)
    assert made == {file: file.stat().st_mtime_ns for file in files}, "something ran twice"


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (the extra `bench`)")
    from benchmarks.small_tables.figure import draw

    row = Row("ReNCE", "a.yaml", 63.0)
    results = [make_result(0.7), make_result(0.8, curve=[(0, 0.25), (60, 0.5), (120, 0.8)])]
    tables = [Table(f"Table {number}", (row,)) for number in (1, 2, 3, 4)]
    draw(Outcome(make_spec(), tables, {row: RENCE}, {}, {RENCE: results}), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "curves.svg").read_text()
    assert all(f"<!-- Table {number} -->" in drawing for number in (1, 2, 3, 4)), "a panel is missing"
