"""The runs of the studies: what is chosen, what is run, what is run again, and what counts as a result."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from command_line import ROOT

from benchmarks.command import RunFailed
from benchmarks.study.__main__ import Study, study
from benchmarks.study.budgets import POINTS
from benchmarks.study.choice import best, choose_learning_rates
from benchmarks.study.jobs import Job, make_job
from benchmarks.study.outcome import read_outcomes
from benchmarks.study.readme import MARKERS, summary
from benchmarks.study.rows import Rows
from benchmarks.study.runner import Runner
from benchmarks.study.spec import Level, Row, Table, load_spec
from rence_lightning.errors import UserError

SPEC = ROOT / "benchmarks" / "study" / "study.yaml"
POINT = {"iteration": 2, "updates": 8, "responses": 512, "cpu_seconds": 3.5, "accuracy": 0.75}

Work = Callable[[list[str], str], None]


def finish(arguments: list[str], folder: str) -> None:
    """A run that ends well; one that is not trained has no budgets to spend."""
    end(folder, {"responses": POINT, "updates": {**POINT, "accuracy": 0.5}})


def end(folder: str, at: dict[str, Any], error: str = "", curve: Sequence[Any] = (POINT,)) -> None:
    """Writes what a run leaves that is a result."""
    Path(folder, "run").mkdir()
    Path(folder, "run", POINTS).write_text(json.dumps({"curve": list(curve), "at": at}))
    Path(folder, "ended.json").write_text(json.dumps({"error": error, "cpu_seconds": 4.0}))


def diverge(arguments: list[str], folder: str) -> None:
    end(folder, {"updates": POINT}, error="iteration 3: the norm is nan")


def crash(arguments: list[str], folder: str) -> None:
    Path(folder, "log.txt").write_text("out of luck\n")
    sys.exit(1)


def vanish(arguments: list[str], folder: str) -> None:
    Path(folder, "log.txt").write_text("the last words\n")
    sys.exit(9)


def make_runner(tmp_path: Path, work: Work = finish) -> Runner:
    return Runner(load_spec(SPEC), tmp_path / "results", tmp_path / "runs", processes=2, work=work)


def trained(seed: int, arguments: tuple[str, ...] = ("--a=1",)) -> Job:
    return Job("tables", "gym", "ReNCE", 1e-4, "test", seed, arguments=(*arguments, f"--seed_everything={seed}"))


def untrained(seed: int) -> Job:
    return Job("tables", "gym", "No training", None, "test", seed, arguments=(f"--seed_everything={seed}",))


STARTS = [untrained(0), untrained(1)]


def test_an_outcome_has_the_points_of_its_run_and_the_start_of_its_seed(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    starts = runner.run(STARTS, "")
    assert starts[STARTS[0]].start == 0.75 and not starts[STARTS[0]].trained
    outcome = runner.run([trained(0)], "")[trained(0)]
    assert (outcome.accuracy("responses"), outcome.accuracy("updates"), outcome.start) == (0.75, 0.5, 0.75)
    assert (outcome.cpu_seconds, outcome.error, outcome.command[3:]) == (4.0, "", ("fit", *trained(0).arguments))
    assert read_outcomes(tmp_path / "results" / "tables.jsonl")[-1] == outcome
    assert not list((tmp_path / "runs").iterdir()), "the files of a finished run are left"


def test_nothing_runs_twice_but_what_is_another_command(tmp_path: Path) -> None:
    make_runner(tmp_path).run([*STARTS, trained(0)], "")
    again = make_runner(tmp_path, work=crash)
    assert again.run([trained(0)], "")[trained(0)].accuracy("responses") == 0.75
    with pytest.raises(RunFailed, match="out of luck"):
        again.run([trained(0, ("--a=2",))], "")


def test_equal_commands_share_a_run_and_have_a_line_each(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    runner.run(STARTS, "")
    other = replace(trained(0), study="when", question="t_easy", level="0.5")
    outcomes = runner.run([trained(0), other], "")
    assert outcomes[other].curve == outcomes[trained(0)].curve and outcomes[other].level == "0.5"
    assert len(read_outcomes(tmp_path / "results" / "when.jsonl")) == 1
    before = (tmp_path / "results" / "when.jsonl").read_bytes()
    make_runner(tmp_path, work=crash).run([trained(0), other], "")
    assert (tmp_path / "results" / "when.jsonl").read_bytes() == before


def test_a_diverged_run_is_a_result_with_its_last_accuracy(tmp_path: Path) -> None:
    make_runner(tmp_path).run(STARTS, "")
    outcome = make_runner(tmp_path, work=diverge).run([trained(1)], "")[trained(1)]
    assert outcome.error == "iteration 3: the norm is nan"
    assert outcome.accuracy("responses") == outcome.accuracy("updates") == 0.75


@pytest.mark.parametrize(
    ("work", "words"), [(crash, "exit code 1.*out of luck"), (vanish, "exit code 9.*the last words")]
)
def test_another_failure_is_no_result_and_others_still_run(tmp_path: Path, work: Work, words: str) -> None:
    make_runner(tmp_path).run(STARTS, "")
    with pytest.raises(RunFailed, match="2 runs failed") as error:
        make_runner(tmp_path, work=work).run([trained(0), trained(1)], "")
    assert all(word in str(error.value) for word in words.split(".*"))
    assert len(read_outcomes(tmp_path / "results")) == 2, "only the starts"


def test_results_of_another_start_policy_are_not_mixed(tmp_path: Path) -> None:
    make_runner(tmp_path).run([replace(job, inputs="abc") for job in STARTS], "")
    with pytest.raises(UserError, match=r"the task gym .* \(digest def, there abc\)"):
        make_runner(tmp_path).run([replace(trained(0), inputs="def")], "")
    assert make_runner(tmp_path, work=crash).run([replace(untrained(0), inputs="def")], ""), "nothing was to be run"
    make_runner(tmp_path / "unknown").run(STARTS, "")
    with pytest.raises(UserError, match=r"not known of which \(digest def, there none\)"):
        make_runner(tmp_path / "unknown").run([replace(trained(0), inputs="def")], "")


def test_the_budgets_are_a_part_of_a_run(tmp_path: Path) -> None:
    """Other budgets are another command, so that no results of old budgets are shown as those of new ones."""
    for name in ("gym-train", "gym-test"):
        (tmp_path / f"{name}.jsonl").write_text("")
    spec = load_spec(SPEC)
    jobs = [
        make_job(each, tmp_path, "tables", "gym", "ReNCE", 1e-4, "test", 0)
        for each in (spec, replace(spec, budgets={"responses": 8192, "updates": 64}), replace(spec, shares=(1.0,)))
    ]
    assert len({job.command for job in jobs}) == 3


@pytest.mark.slow
def test_only_a_run_that_starved_or_diverged_is_a_result_although_it_failed(tmp_path: Path) -> None:
    """With the real worker: an unknown option and an error in a part are none, a pool that yields no group is."""
    write_chains(tmp_path)
    spec = replace(load_spec(SPEC), budgets={"responses": 40, "updates": 2})
    small = replace(spec, options={**spec.options, **SMALL})

    def job(**options: Any) -> Job:
        level = ("", Level("chains", options={key.replace("__", "."): value for key, value in options.items()}))
        return make_job(small, tmp_path, "tables", "chains", "ReNCE", 1e-4, "test", 0, "", level)

    start = make_job(small, tmp_path, "tables", "chains", "No training", None, "test", 0)
    runner = Runner(small, tmp_path / "results", tmp_path / "runs", processes=1)
    runner.run([start], "")
    raises = {"class_path": "rence_lightning.rewards.FunctionReward", "init_args": {"function": "json.loads"}}
    for broken in (job(data__nothing=1), job(data__reward=raises)):
        with pytest.raises(RunFailed):
            runner.run([broken], "")
    unearned = {**raises, "init_args": {"function": f"{__name__}.nothing"}}
    starving = job(data__reward=unearned)
    outcome = runner.run([starving], "")[starving]
    assert "can be trained on" in outcome.error and outcome.accuracy("updates") == outcome.start


def nothing(response: Any) -> float:
    """A reward that no response earns."""
    return 0.0


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
    def measure(pairs: list[tuple[str, float]]) -> dict[tuple[str, float], float]:
        return {(method, rate): 1 / (1 + max(rate, peak) / min(rate, peak)) for method, rate in pairs}

    scores = choose_learning_rates(["ReNCE"], (1e-4, 2e-4, 4e-4), 2, measure)["ReNCE"]
    assert set(scores) == tried
    assert best(scores) == min(tried, key=lambda rate: max(rate, peak) / min(rate, peak))


def test_a_rate_is_chosen_on_validation_problems_by_the_mean_over_seeds_and_budgets(tmp_path: Path) -> None:
    """An independent mean over the lines of the results gives the same rate."""
    for name in ("gym-train", "gym-validation", "gym-test"):
        (tmp_path / f"{name}.jsonl").write_text("")
    full = load_spec(SPEC)
    some = {name: full.methods[name] for name in ("No training", "ReNCE", "GRPO")}
    table = Table("", [Row(name, name) for name in some])
    spec = replace(full, extend=0, learning_rates=(1e-4, 2e-4), methods=some, tables=(table,))
    runner = Runner(spec, tmp_path / "results", tmp_path / "runs", processes=2, work=by_rate)
    runs = Study(spec, runner, tmp_path)
    runs.starts(["gym"])
    rates = runs.choose("gym")
    lines = [each for each in read_outcomes(tmp_path / "results") if each.trained]
    assert {each.split for each in lines} == {"validation"}
    assert all("gym-validation" in " ".join(each.command) for each in lines)
    for method, rate in rates.items():
        means = {
            tried: fmean(
                each.accuracy(budget)
                for each in lines
                if (each.method, each.learning_rate) == (method, tried)
                for budget in ("responses", "updates")
            )
            for tried in spec.learning_rates
        }
        assert means[rate] == max(means.values())
    assert set(rates) == {name for name, each in spec.methods.items() if each.config}


def by_rate(arguments: list[str], folder: str) -> None:
    """A run whose accuracy depends on its arguments in no simple way."""
    value = sum(map(ord, "".join(arguments))) % 97 / 97
    point = {**POINT, "accuracy": value}
    end(folder, {"responses": point, "updates": {**point, "accuracy": value / 2}}, curve=[point])


def test_a_wrong_specification_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    with pytest.raises(UserError, match=r"study\.yaml: FileNotFoundError"):
        load_spec(path)
    good = yaml.safe_load(SPEC.read_text())
    for change, words in (
        ({"seedz": [1]}, "seedz"),
        ({"learning_rates": [1e-4]}, "at least two learning_rates"),
        ({"repeated": ["ReNCEE"]}, "no method 'ReNCEE'"),
        ({"budgets": {"respones": 40, "updates": 2}}, "budgets must be responses and updates"),
        ({"shares": [0.5]}, "the last of the shares 1"),
        ({"questions": with_level(good, {"of_method": {"ReNCEE": {}}})}, "no method 'ReNCEE'"),
        ({"tasks": {**good["tasks"], "hard": {**good["tasks"]["hard"], "methods": ["GRPPO"]}}}, "no method 'GRPPO'"),
        ({"tables": [{"title": "T", "rows": [], "reference": "SFT"}]}, "no method 'SFT'"),
    ):
        path.write_text(yaml.safe_dump({**good, **change}))
        with pytest.raises(UserError, match=words):
            load_spec(path)


def with_level(specification: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    question = specification["questions"]["noise"]
    return {"noise": {**question, "levels": {**question["levels"], "0%": {"task": "gym", **change}}}}


def test_the_study_has_all_tables_five_seeds_and_no_seed_for_two_purposes() -> None:
    spec = load_spec(SPEC)
    papers = [row.paper for table in spec.tables for row in table.rows if row.paper is not None]
    assert len(papers) == 18, "the rows of the paper's Tables 1 to 4"
    assert len(spec.seeds) >= 5 and len(spec.selection_seeds) >= 2
    assert not set(spec.seeds) & set(spec.selection_seeds) and not set(spec.seeds) & set(spec.repeat_seeds)


TINY = {
    "budgets": {"responses": 40, "updates": 2},
    "learning_rates": [1e-4, 2e-4],
    "extend": 0,
    "selection_seeds": [100],
    "seeds": [0],
    "repeat_seeds": [10],
    "repeated": ["ReNCE"],
}
SMALL = {
    "data.prompts_per_iteration": 2,
    "data.prompts_per_update": 1,
    "data.prompts_per_draw": 4,
    "evaluation.limit": 4,
    "evaluation.repeats": 1,
}


@pytest.mark.slow
def test_a_tiny_study_from_the_command_to_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    full = yaml.safe_load(SPEC.read_text())
    tiny = {
        **full,
        **TINY,
        "options": {**full["options"], **SMALL},
        "methods": {name: full["methods"][name] for name in ("No training", "ReNCE")},
        "tasks": {"chains": full["tasks"]["chains"]},
        "tables": [{"title": "T", "rows": [{"label": name, "method": name} for name in ("No training", "ReNCE")]}],
        "questions": {
            "t_easy": {
                "title": "t_easy",
                "about": "t_easy",
                "methods": ["ReNCE"],
                "levels": {
                    "0.5": {"task": "chains"},
                    "0.75": {"task": "chains", "options": {"data.filter.init_args.t_easy": 0.75}},
                },
            }
        },
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    problems = tmp_path / "out" / "tasks"
    problems.mkdir(parents=True)
    monkeypatch.setattr("benchmarks.study.__main__.prepare", lambda folder: write_chains(folder))
    (tmp_path / "README.md").write_text("\n".join([*MARKERS, ""]))
    run = lambda **settings: study(  # noqa: E731
        tmp_path / "results", tmp_path / "out", tmp_path / "docs", tmp_path / "tiny.yaml", **settings
    )
    run()
    outcomes = read_outcomes(tmp_path / "results")
    assert [(each.study, each.split) for each in outcomes if each.trained] == [
        *[("tables", "validation")] * 2,
        ("tables", "test"),
        ("tables", "repeat"),
        *[("when", "test")] * 2,
    ]
    for each in outcomes:
        if each.trained:
            assert each.at["responses"].responses >= 40 and each.at["updates"].updates >= 2 and not each.error
    (row,) = [each for each in outcomes if (each.study, each.split) == ("tables", "test") and each.trained]
    default = next(each for each in outcomes if each.level == "0.5")
    assert default.curve == row.curve and default.command == row.command, "the default level was run again"
    run(report_only=True)
    assert read_outcomes(tmp_path / "results") == outcomes
    assert "| ReNCE" in (tmp_path / "docs" / "small_tables.md").read_text() and (tmp_path / "docs" / "when.md").exists()
    assert (
        "4 updates" not in (tmp_path / "README.md").read_text() and "2 updates" in (tmp_path / "README.md").read_text()
    )


def test_the_readme_has_the_table_of_the_results() -> None:
    """The results may be of a part of the study."""
    rows = Rows(load_spec(SPEC), read_outcomes(ROOT / "benchmarks" / "study" / "results"))
    start, end = (f"{marker}\n" for marker in MARKERS)
    assert (ROOT / "README.md").read_text().partition(start)[2].partition(end)[0] == summary(rows) + "\n"


def write_chains(folder: Path) -> None:
    from benchmarks.study.tasks import chain_splits, write_problems

    for split, problems in chain_splits().items():
        write_problems(folder / f"chains-{split}.jsonl", problems[:60], split)


@pytest.mark.parametrize("method", sorted(load_spec(SPEC).methods))
def test_the_configuration_of_a_method_is_valid_on_every_task_and_level(method: str, tmp_path: Path) -> None:
    from rence_lightning.cli.settings import Settings

    spec = load_spec(SPEC)
    for name in {task.problems for task in spec.tasks.values()}:
        for split in ("train", "validation", "test"):
            (tmp_path / f"{name}-{split}.jsonl").write_text("")
    rate = 1e-4 if spec.methods[method].config else None
    levels = [(name, level) for each in spec.questions if method in each.methods for name, level in each.levels.items()]
    jobs = [make_job(spec, tmp_path, "tables", task, method, rate, "test", 0) for task in spec.tasks]
    jobs += [make_job(spec, tmp_path, "when", lv.task, method, rate, "test", 0, "q", (name, lv)) for name, lv in levels]
    for job in jobs:
        Settings(list(job.arguments))
    assert len({job.command for job in jobs}) >= len(spec.tasks) - 1
