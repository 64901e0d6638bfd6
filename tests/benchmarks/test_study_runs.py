"""The runs of the studies: what is chosen, what is run, what is run again, and what counts as a result."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from command_line import ROOT

from benchmarks.command import RunFailed
from benchmarks.study.budgets import POINTS
from benchmarks.study.jobs import Job, _digest, make_job
from benchmarks.study.results import Outcome, read_lines, read_outcomes
from benchmarks.study.runner import Ended, Runner
from benchmarks.study.runs import Cell, Runs, best, rates_to_try
from benchmarks.study.spec import BUDGETS, Method, Question, Recipe, Spec, load_spec
from benchmarks.study.study import Study
from benchmarks.study.tasks import prepare
from rence_lightning.errors import UserError

SPEC_FILE = ROOT / "benchmarks" / "study" / "study.yaml"
SPEC, TABLE1 = load_spec(SPEC_FILE), load_spec(SPEC_FILE.with_name("table1.yaml"))
POINT = {"iteration": 2, "updates": 16, "responses": 512, "cpu_seconds": 3.5, "accuracy": 0.5}
LATER = {**POINT, "iteration": 9, "responses": 4100, "accuracy": 0.75}
Work = Callable[[list[str], str], None]


def finish(arguments: list[str], folder: str, *points: Any, error: str = "") -> None:
    """What a run leaves that is a result."""
    Path(folder, "run").mkdir()
    Path(folder, "run", POINTS).write_text(json.dumps(points or [POINT, LATER]))
    evaluations = [{"iteration": number, "average": number / 40} for number in (10, 20)]
    Path(folder, "run", "evaluations.jsonl").write_text("\n".join(map(json.dumps, evaluations)))
    Path(folder, "ended.json").write_text(json.dumps({"error": error, "cpu_seconds": 4.0, "wall_seconds": 5.0}))


def diverge(arguments: list[str], folder: str) -> None:
    finish(arguments, folder, POINT, error="iteration 3: the norm is nan")


def by_rate(arguments: list[str], folder: str) -> None:
    """A run whose accuracy depends on its arguments in no simple way."""
    value = sum(map(ord, "".join(arguments[:-1]))) % 97 / 97
    finish(arguments, folder, {**POINT, "accuracy": value / 2}, {**LATER, "accuracy": value})


def crash(arguments: list[str], folder: str) -> None:
    Path(folder, "log.txt").write_text("out of luck\n")
    sys.exit(3)


def killed(arguments: list[str], folder: str) -> None:
    os.abort()


class Here(Runner):
    """Runs in this process, at once."""

    def run(self, runs: Mapping[str, Sequence[str]], keep: Callable[[str, Ended], str]) -> None:
        for name, arguments in runs.items():
            with TemporaryDirectory() as folder:
                self.work([*arguments, "--trainer.run_dir=."], folder)
                keep(name, Ended(Path(folder, "run"), **json.loads(Path(folder, "ended.json").read_text())))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Study]:
    """Makes a study of runs that only pretend."""
    (tmp_path / "problems").mkdir()
    for problems in {each.problems for each in (*SPEC.tasks.values(), *TABLE1.tasks.values())}:
        for split in ("train", "validation", "test"):
            (tmp_path / "problems" / f"{problems}-{split}.jsonl").touch()

    def study(work: Work = finish, spec: Spec = SPEC, kind: type[Runner] = Here) -> Study:
        return Study(spec, kind(tmp_path / "runs", 2, work), tmp_path / "results", tmp_path / "problems")

    return study


RENCE = Cell("gym", "ReNCE")


def job(study: Study, seed: int, cell: Cell = RENCE) -> Job:
    rate = None if cell.method == SPEC.untrained else 1e-4
    return make_job(study.spec, study.problems, cell, rate, "test", seed)


def test_a_result_has_the_points_of_its_run_and_the_start_of_its_seed(make: Any, tmp_path: Path) -> None:
    study = make()
    study.start(["gym"])
    study.execute([job(study, 0)], "")
    found = study.outcomes[-1]
    assert (found.accuracy("responses"), found.accuracy("updates"), found.start) == (0.75, 0.5, 0.5)
    assert (found.cpu_seconds, found.error, found.command) == (4.0, "", job(study, 0).command)
    assert read_outcomes(tmp_path / "results") == study.outcomes


def test_nothing_runs_twice_and_equal_commands_share_a_run_but_other_budgets_do_not(make: Any, tmp_path: Path) -> None:
    first = make()
    first.start(["gym"])
    first.execute([job(first, 0)], "")
    again = make(crash)
    level = job(again, 0, Cell("gym", "ReNCE", "beta", "0.1"))  # the level that is as in the tables
    again.execute([job(again, 0), level], "")
    assert again.outcomes[-1].level == "0.1" and again.outcomes[-1].curve == first.outcomes[-1].curve
    assert len(read_outcomes(tmp_path / "results")) == len(first.outcomes) + 1
    other = make(crash, replace(SPEC, budgets={"responses": 8192, "updates": 16}))
    with pytest.raises(SystemExit):
        other.execute([job(other, 0)], "")


def test_a_task_has_budgets_and_options_of_its_own_and_a_digest_of_its_inputs(make: Any, tmp_path: Path) -> None:
    study = make(spec=TABLE1)

    def arguments(method: str, split: str, task: str = "words") -> tuple[dict[str, str], str]:
        made = make_job(TABLE1, study.problems, Cell(task, method), 1e-4, split, 0)
        return dict(each.removeprefix("--").split("=", 1) for each in made.arguments), made.digest

    test, digest = arguments("GRPO", "test")
    assert [test[f"data.prompts_per_{each}"] for each in ("iteration", "update")] == ["8", "8"]
    assert arguments("ReNCE", "test")[0]["data.prompts_per_update"] == "2"
    sizes = [
        json.loads(each["trainer.callbacks"])[0]["init_args"] for each in (test, arguments("GRPO", "validation")[0])
    ]
    assert [(each["responses"], each["updates"]) for each in sizes] == [(384, 8), (192, 4)]
    assert TABLE1.first_rates("words") == [3e-6, 1e-5] and TABLE1.first_rates("sums") == TABLE1.learning_rates
    assert (TABLE1.extensions("words"), TABLE1.extensions("sums")) == (0, 1)
    (study.problems / "words-test.jsonl").write_text("{}")
    _digest.cache_clear()
    assert arguments("GRPO", "test")[1] != digest == arguments("GRPO", "validation")[1]


def test_results_of_other_problems_are_refused(make: Any) -> None:
    study = make()
    study.start(["gym"])
    (study.problems / "gym-test.jsonl").write_text("{}")
    _digest.cache_clear()
    with pytest.raises(UserError, match="results of gym with other problems"):
        study.execute([job(study, 0)], "")


def test_a_diverged_run_is_a_result_with_its_last_accuracy(make: Any) -> None:
    make().start(["gym"])
    study = make(diverge)
    study.execute([job(study, 1)], "")
    assert study.outcomes[-1].error == "iteration 3: the norm is nan"
    assert {study.outcomes[-1].accuracy(budget) for budget in BUDGETS} == {0.5}


def by_seed(arguments: list[str], folder: str) -> None:
    """The run with seed 1 ends well, that with 2 is killed, others crash."""
    seed = next(argument for argument in arguments if "seed" in argument)[-1]
    {"1": finish, "2": killed}.get(seed, crash)(arguments, folder)


def test_a_failure_of_a_process_is_no_result_and_others_still_run(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make().start(["gym"])
    study = make(by_seed, kind=Runner)
    before = len(study.outcomes)
    with pytest.raises(RunFailed, match="2 of 3 runs failed"):
        study.execute([job(study, seed) for seed in range(3)], "")
    output = capsys.readouterr().out
    assert "exit code 3" in output and "out of luck" in output and "exit code -6" in output
    assert len(study.outcomes) == before + 1 and len(list((tmp_path / "runs").iterdir())) == 2


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
    scores: dict[float, float] = {}
    while rates := rates_to_try(scores, (1e-4, 2e-4, 4e-4), 2):
        scores |= {rate: min(rate, peak) / max(rate, peak) for rate in rates}
    assert set(scores) == tried and best(scores) == max(tried, key=lambda rate: min(rate, peak) / max(rate, peak))


def test_a_whole_study_chooses_rates_by_the_mean_over_seeds_and_budgets_and_runs_each_part(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An independent mean over the lines of the results gives the same rates."""
    monkeypatch.setattr("benchmarks.study.study.prepare", lambda folder, spec: None)
    recipes = {"conf/gym.yaml": Recipe("gym", [3]), "conf/small/lora.yaml": Recipe("lora", [0], ["conf/gym.yaml"])}
    methods = {name: SPEC.methods[name] for name in (SPEC.untrained, "ReNCE", "DAPO")}
    small = {"methods": methods, "repeated": ["DAPO"], "questions": {}, "recipes": recipes, "tasks": {}}
    tasks = {name: SPEC.tasks[name] for name in ("gym", "chains", "graded")}
    noise = Question("noise", "", ["ReNCE"], {"2%": SPEC.questions["noise"].levels["2%"]})
    spec = replace(SPEC, **{**small, "tasks": tasks, "questions": {"noise": noise}, "learning_rates": (1e-4, 2e-4)})
    study = make(by_rate, spec)
    study.run()
    runs = Runs(spec, study.outcomes)
    for method in ("ReNCE", "DAPO"):
        lines = [
            each for each in study.outcomes if (each.task, each.method, each.split) == ("gym", method, "validation")
        ]
        assert all("gym-validation" in " ".join(each.command) for each in lines)
        means = {
            rate: fmean(each.accuracy(budget) for each in lines if each.learning_rate == rate for budget in BUDGETS)
            for rate in {each.learning_rate for each in lines}
        }
        assert means[runs.rate("gym", method)] == max(means.values()) and len(means) >= 2
    assert all(len(runs.of(cell)) == len(SPEC.seeds) for cell in runs.cells()) and runs.of(
        Cell("gym", "DAPO"), "repeat"
    )
    assert {each.task for each in study.outcomes if each.method == SPEC.untrained} == set(tasks)
    assert [(each["file"], each["seed"], each["start"], each["end"]) for each in study.recipe_runs] == [
        *[("conf/gym.yaml", 3, 0.25, 0.5), ("conf/small/lora.yaml", 0, 0.25, 0.5)]
    ]
    assert study.recipe_runs[1]["command"].endswith("fit --config conf/gym.yaml --config conf/small/lora.yaml")
    make(crash, spec).run()  # nothing is left to do


def test_a_line_that_is_no_result_is_refused_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "tables.jsonl").write_text(good := json.dumps(LINE) + "\n")
    assert isinstance(read_outcomes(tmp_path)[0], Outcome) and read_lines(tmp_path / "none.jsonl", dict) == []
    for line in ({**LINE, "mehtod": 1}, {**LINE, "curve": [{**POINT, "accuracy": 2}]}, None):
        (tmp_path / "tables.jsonl").write_text(good + (json.dumps(line) if line else good[:40]))
        with pytest.raises(UserError, match=r"tables\.jsonl:2: .*; remove the line"):
            read_outcomes(tmp_path)


LINE = {
    "study": "tables",
    "task": "gym",
    "method": "ReNCE",
    "learning_rate": 1e-4,
    "split": "test",
    "seed": 0,
    "start": 0.1,
    "curve": [POINT],
    "at": dict.fromkeys(BUDGETS, POINT),
    "command": ["a"],
}


def test_a_wrong_specification_is_refused(tmp_path: Path) -> None:
    good = yaml.safe_load(SPEC_FILE.read_text())
    beta = good["questions"]["beta"]
    for change, words in (
        ({"seedz": [1]}, "seedz"),
        ({"repeated": ["ReNCEE"]}, "no method 'ReNCEE'"),
        ({"methods": {**good["methods"], "Softmax": {"against": "SFT"}}}, "no method 'SFT'"),
        ({"tasks": {"gym": {**good["tasks"]["gym"], "budgets": {"update": 1}}}}, "the budgets of gym are"),
        ({"learning_rates": [1e-4]}, "fewer than two learning rates"),
        ({"tasks": {"gym": {**good["tasks"]["gym"], "of_method": {"PPO": {}}}}}, "no method 'PPO'"),
        ({"questions": {"beta": {**beta, "methods": ["GRPPO"]}}}, "no method 'GRPPO'"),
        ({"questions": {"beta": {**beta, "levels": {"1": {"task": "gim"}}}}}, "no task 'gim'"),
    ):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({**good, **change}))
        with pytest.raises(UserError, match=words):
            load_spec(tmp_path / "study.yaml")


def test_no_seed_has_two_purposes_and_all_rows_of_the_paper_s_tables_are_there() -> None:
    seeds = [*SPEC.seeds, *SPEC.selection_seeds, *SPEC.repeat_seeds]
    assert len(SPEC.seeds) >= 5 and len(seeds) == len(set(seeds))
    tables = [table for each in SPEC.methods.values() for table in "1234" if table in each.tables.split(" (")[0]]
    assert sorted(tables) == ["1"] * 5 + ["2"] * 5 + ["3"] * 4 + ["4"] * 4


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "ReNCE" else pytest.mark.slow) for name in SPEC.methods]
)
def test_the_configuration_of_a_method_is_valid_at_the_levels_of_its_questions(method: str, make: Any) -> None:
    from rence_lightning.cli.merging import merged
    from rence_lightning.cli.settings import Settings

    study, cells = make(), [cell for cell in Runs(SPEC, []).cells() if cell.method == method]
    chosen = {(cell.question, cell.task, method != "GRPO" or cell.level): cell for cell in cells}  # GRPO has all levels
    for cell in chosen.values():
        merged(Settings(list(job(study, 0, cell).arguments)), {})


@pytest.mark.slow
def test_real_runs_starve_or_fail_or_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown option is a failure; a pool that yields no group is a result; what ends has spent both budgets."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("benchmarks.study.tasks.make_guesser.main", lambda arguments: None)
    prepare(tmp_path / "problems", SPEC)
    iteration = {"prompts_per_iteration": 2, "prompts_per_update": 1, "prompts_per_draw": 4}
    small = {**SPEC.options, **{f"data.{key}": value for key, value in iteration.items()}, "evaluation.limit": 4}
    unearned = {
        "class_path": "rence_lightning.rewards.FunctionReward",
        "init_args": {"function": f"{__name__}.nothing"},
    }
    methods = dict.fromkeys(("ReNCE", "starving", "wrong"), SPEC.methods["ReNCE"]) | {SPEC.untrained: Method()}
    methods["starving"] = replace(methods["starving"], options={"data.reward": unearned})
    methods["wrong"] = replace(methods["wrong"], options={"data.nothing": 1})
    spec = replace(SPEC, options=small, budgets={"responses": 40, "updates": 2}, methods=methods, seeds=[0])
    study = Study(spec, Runner(tmp_path / "runs", 2), tmp_path / "results", tmp_path / "problems")
    study.start(["chains"])
    study.execute([job(study, 0, Cell("chains", method)) for method in ("ReNCE", "starving")], "")
    found = {each.method: each for each in study.outcomes}
    assert found["ReNCE"].at["responses"].responses >= 40 and found["ReNCE"].at["updates"].updates >= 2
    assert "can be trained on" in found["starving"].error
    with pytest.raises(RunFailed, match=r"data\.nothing"):
        study.execute([job(study, 0, Cell("chains", "wrong"))], "")


def nothing(response: Any) -> float:
    """A reward that no response earns."""
    return 0.0
