"""The runs of the recipes: what is run, what is run again, and what counts as a result."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import CONF

from benchmarks.command import RunFailed
from benchmarks.recipes import runner
from benchmarks.recipes.results import Result, read_results
from benchmarks.recipes.runner import run, run_missing, wait
from benchmarks.recipes.spec import Recipe
from rence_lightning.cli.main import main
from rence_lightning.evaluation.record import read_evaluations

SMALL = (
    *("--evaluation.limit=8", "--evaluation.repeats=1", "--trainer.max_iterations=1", "--progress.bars=false"),
    *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--data.prompts_per_draw=8"),
)


def recipe(name: str, *seeds: int) -> Recipe:
    return Recipe(name, f"conf/{name}.yaml", f"python -m rence_lightning fit --config conf/{name}.yaml", name, seeds)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are started; none runs: one of `bad` fails, of `silent` evaluates once, the others learn."""
    commands: list[list[str]] = []

    def stand_in(command: list[str], output: int) -> tuple[int, float]:
        commands.append(command)
        folder = Path(next(each for each in command if "run_dir" in each).partition("=")[2])
        folder.mkdir()
        seed = int(next(each for each in command if "seed" in each).partition("=")[2])
        lines = [
            {"iteration": step, "average": 0.1 + 0.01 * seed + step / 100, "benchmarks": {}} for step in (0, 9, 20)
        ]
        lines = lines[: 1 if "conf/silent.yaml" in command else None]
        (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return int("conf/bad.yaml" in command), 12.34

    monkeypatch.setattr(runner, "wait", stand_in)
    return commands


def test_each_seed_is_run_once_and_an_interrupted_command_continues(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.jsonl"
    run_missing([recipe("a", 0)], path, tmp_path / "runs")
    run_missing([recipe("a", 0, 4), recipe("b", 2)], path, tmp_path / "runs")
    assert [(each.name, each.seed) for each in read_results(path)] == [("a", 0), ("a", 4), ("b", 2)]
    assert len(started) == 3 and "--seed_everything=4" in started[1] and "--trainer.cpu_threads=1" in started[1]
    second = read_results(path)[1]
    assert (second.start, second.end, second.iterations) == (pytest.approx(0.14), pytest.approx(0.34), 20)
    assert (second.cpu_seconds, second.threads, second.command) == (12.3, 1, recipe("a").command)
    assert second.processor and second.versions["torch"] and second.commit
    run_missing([replace(recipe("a", 0), command=f"{recipe('a').command} --trainer.max_iterations 30")], path, tmp_path)
    assert len(started) == 4, "another command is another run"
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(("name", "words"), [("bad", "exit code 1"), ("silent", "no evaluations before and after")])
def test_a_run_that_fails_is_no_result_and_the_others_are_run(
    name: str, words: str, tmp_path: Path, started: list[list[str]]
) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(RunFailed, match=f"1 of 2 runs failed, the first: .*{words}"):
        run_missing([recipe(name, 0), recipe("a", 0)], path, tmp_path / "runs")
    assert [each.name for each in read_results(path)] == ["a"]
    assert (tmp_path / "runs" / f"{name}-{name}-0" / "log.txt").exists(), "what the run printed was removed"


def test_cpu_seconds_are_those_of_a_process_and_its_children(tmp_path: Path) -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(40_000_000))']); sys.exit(3)"
    with (tmp_path / "log").open("w") as log:
        status, used = wait([sys.executable, "-c", program], log.fileno())
        _, idle = wait([sys.executable, "-c", "import time; time.sleep(0.5)"], log.fileno())
    assert status == 3 and used > idle + 0.3 and idle < 0.4


@pytest.mark.slow
def test_a_run_has_the_accuracies_of_the_same_command_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONF.parent)
    command = " ".join(["python -m rence_lightning fit --config conf/arithmetic.yaml", *SMALL])
    result: Result = run(Recipe("demo", "conf/arithmetic.yaml", command, "demo", (3,)), 3, tmp_path / "a", "abc")
    hand = tmp_path / "hand"
    main(["fit", f"--config={CONF / 'arithmetic.yaml'}", *SMALL, "--seed_everything=3", f"--trainer.run_dir={hand}"])
    first, last = read_evaluations(hand / "evaluations.jsonl")
    assert (result.start, result.end, result.iterations) == (first["average"], last["average"], 1)
    assert result.cpu_seconds > 0 and result.wall_seconds > 0 and not (tmp_path / "a").exists()
