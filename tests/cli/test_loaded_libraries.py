"""What a command loads: libraries that take seconds to import only where they are needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rence_lightning.evaluation import (
    Description,
    EvaluatedProblem,
    Sample,
    SampleFolder,
    append_evaluation,
)
from rence_lightning.evaluation.figures import BenchmarkMetrics

SECONDS = ["torch", "torchmetrics", "transformers", "lightning", "datasets", "sympy", "pandas", "tensorboard"]
OTHERS = ["jsonargparse", "numpy", "matplotlib", "jinja2", "rich", "omegaconf"]


def loaded(*command_lines: list[str]) -> list[list[str]]:
    """The libraries, of those named above, that are loaded after each of several command lines in one process."""
    program = (
        "import contextlib, io, json, sys\n"
        "from rence_lightning.cli.main import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main(arguments)\n"
        f"    print(json.dumps([name for name in {SECONDS + OTHERS} if name in sys.modules]))\n"
    )
    command = [sys.executable, "-c", program, json.dumps(command_lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_with_two_evaluations(folder: Path) -> Path:
    for iteration, vote in ((0, 0), (2, 1)):
        sample = Sample("97", "97", bool(vote), 1.0, vote, 3, "stop")
        samples = SampleFolder(folder / "evaluations" / f"iteration-{iteration:04d}")
        samples.open(Description("policy", iteration, "digest", "Engine", {}, {}))
        problem = EvaluatedProblem("1", "96+1=?", "96+1=?", "97", (sample, sample))
        samples.append("sums", 0, problem)
        samples.finish("sums", ["1"], ranks=1)
        metrics = BenchmarkMetrics(2)
        metrics.update({0: problem})
        append_evaluation(folder / "evaluations.jsonl", iteration, {"sums": metrics.compute()})
    return folder


def test_help_and_wrong_arguments_are_answered_at_once() -> None:
    """An import of torch and Lightning takes seconds, in which a typo would go unanswered."""
    wrong = [[], ["fti"], ["fit", "--config", "no-such-file.yaml"], ["fit", "data.yaml"]]
    wrong += [["report", "no-such-folder"], ["compare", "no", "no"], ["export", "no-such-folder", "folder"]]
    wrong += [
        ["fit", "--data.group_siz=4"],
        ["validate", "--data.group_siz.help"],
        ["plan", "--config", "data: {siz: 4}"],
    ]
    helps = [["--help"], ["--version"], ["export", "--help"], ["compare", "--help"], ["report", "--help"]]
    helps += [["fit", "--help"], ["validate", "--help"], ["plan", "--help"], ["fit", "--data.sampling.help"]]
    commands = [*wrong, *helps]
    assert loaded(*commands) == [[]] * len(commands)


def test_a_comparison_and_a_report_load_no_torch(tmp_path: Path) -> None:
    run = run_with_two_evaluations(tmp_path)
    compared, reported = loaded(
        ["compare", str(run / "evaluations" / "iteration-0000"), str(run)], ["report", str(run)]
    )
    assert (run / "report.html").exists()
    assert set(compared) <= {"numpy", "rich"} and set(reported) <= {"numpy", "rich", "matplotlib", "jinja2"}


@pytest.mark.parametrize(
    ("given", "used"),
    [({}, "PASSIVE"), pytest.param({"OMP_WAIT_POLICY": "active"}, "ACTIVE", marks=pytest.mark.slow)],
)
def test_threads_that_wait_do_not_spin_unless_asked_to(given: dict[str, str], used: str) -> None:
    """As the OpenMP library that torch loads says itself: threads that spin slow down every other job on the cores."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "true", **given}
    program = "import rence_lightning.cli.main, torch, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{used}'" in done.stderr
    assert done.stdout == ("3000\n" if used == "PASSIVE" else "None\n")
