"""The runs of the precision study: what is run, what is run again, and what counts as a result."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.command import RunFailed
from benchmarks.precision.runs import Job, Method, Result, Runner
from rence_lightning.errors import UserError

RENCE = Method("ReNCE", "rence", (), trained=True)


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
    ours = "try: {}['reward']\nexcept KeyError as error: print(explanation(error), file=sys.stderr); sys.exit(1)"
    with pytest.raises(RunFailed, match="error: KeyError: 'reward'"):
        program = f"{FINISHES}from rence_lightning.errors import explanation\n{ours}"
        Scripted(tmp_path / "c", program).run(JOBS[:1], "")
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
