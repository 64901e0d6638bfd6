"""What a command loads: libraries that take seconds to import only where they are needed."""

import json
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

TORCH = ["torch", "torchmetrics", "transformers", "lightning", "datasets", "sympy", "pandas", "tensorboard"]
OTHERS = ["numpy", "matplotlib", "jinja2", "rich", "omegaconf"]


def loaded(*arguments: str) -> list[str]:
    """The libraries, of those named above, that a command line loads."""
    program = (
        "import contextlib, io, json, sys\n"
        "from rence_lightning.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(sys.argv[1:])\n"
        f"print(json.dumps([name for name in {TORCH + OTHERS} if name in sys.modules]))\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: list[str] = json.loads(done.stdout)
    return result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with two evaluations."""
    for iteration, vote in ((0, 0), (2, 1)):
        sample = Sample("97", "97", bool(vote), 1.0, vote, 3, "stop")
        folder = SampleFolder(tmp_path / "evaluations" / f"iteration-{iteration:04d}")
        folder.open(Description("policy", iteration, "digest", "Engine", {}, {}))
        problem = EvaluatedProblem("1", "96+1=?", "96+1=?", "97", (sample, sample))
        folder.append("sums", 0, problem)
        folder.finish("sums", ["1"], ranks=1)
        metrics = BenchmarkMetrics(2)
        metrics.update({0: problem})
        append_evaluation(tmp_path / "evaluations.jsonl", iteration, {"sums": metrics.compute()})
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["fti"],
        ["fit", "--config", "no-such-file.yaml"],
        ["fit", "--triner.max_iterations", "3"],
        ["export", "--help"],
        ["compare", "--help"],
        ["report", "no-such-folder"],
    ],
    ids=" ".join,
)
def test_help_and_wrong_arguments_are_answered_at_once(arguments: list[str]) -> None:
    assert loaded(*arguments) == []


def test_a_comparison_and_a_report_load_no_torch(run: Path) -> None:
    compared = loaded("compare", str(run / "evaluations" / "iteration-0000"), str(run))
    assert set(compared) <= {"numpy", "rich"}
    reported = loaded("report", str(run))
    assert (run / "report.html").exists()
    assert set(reported) <= {"numpy", "rich", "matplotlib", "jinja2"}
