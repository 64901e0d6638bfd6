"""What pip installs, in an empty folder: complete, and a policy learns a task of one's own by Python and by YAML."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from command_line import CONF, ROOT
from own_task import PROBLEMS

from rence_lightning import __version__

NOT_COPIED = ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
MARGIN = 0.3
"""Least gain on about 40 held-out problems with 4 samples each; its standard error is below 0.06."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree, built from its source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    copytree(ROOT, folder / "clone", symlinks=True, ignore=NOT_COPIED)
    program = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", program], cwd=folder / "clone", check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later have filters
        archive.extractall(folder / "source")
    (source,) = (folder / "source").iterdir()
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", *build, str(source)], check=True)
    return folder / f"rence_lightning-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which the installed package comes before the one under test."""
    site = tmp_path_factory.mktemp("site")
    install = ["pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True)
    path = f"{site / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(site), "PATH": path, "OMP_NUM_THREADS": "1"}


def output_of(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_the_clone_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith("rence_lightning-")}
        assert all(archive.getinfo(name).external_attr >> 28 != 0o12 for name in held), "a link instead of a file"
    package = ROOT / "rence_lightning"
    wanted = {file.relative_to(package) for file in package.rglob("*") if file.is_file()}
    wanted |= {"conf" / file.relative_to(CONF) for file in CONF.rglob("*.yaml")}
    wanted |= {"callbacks" / file.relative_to(ROOT / "callbacks") for file in (ROOT / "callbacks").rglob("*.py")}
    assert held == {f"rence_lightning/{file}" for file in wanted if "__pycache__" not in file.parts}


def test_the_command_and_the_module_do_the_same_in_an_empty_folder(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ["fit", "--config", "rence", "--config", "hardware/gpu1", "--print_config"]
    printed = output_of(["rence-lightning", *arguments], tmp_path, environment)
    assert printed == output_of([sys.executable, "-m", "rence_lightning", *arguments], tmp_path, environment)
    assert "policy: Qwen/Qwen3-4B" in printed and not list(tmp_path.iterdir())
    where = output_of([sys.executable, "-c", "import rence_lightning as r; print(r.__file__)"], tmp_path, environment)
    assert where.startswith(environment["PYTHONPATH"])


PYTHON = """
import json
from pathlib import Path
from rence_lightning import fit
problems = [json.loads(line) for line in Path("problems.jsonl").read_text().splitlines()]

def reward(response):
    return response.text.endswith("\\\\boxed{" + response.problem.answer + "}")

print(fit(config="arithmetic", problems=problems, reward=reward, held_out=0.2, max_iterations=10, run_dir="runs/own"))
"""

TASK = """
def reward(response):
    return response.text.endswith("\\\\boxed{" + response.problem.answer + "}")
"""

OVERLAY = """
trainer: {run_dir: runs/own, max_iterations: 10}
data:
  problems: [{class_path: FileProblems, init_args: {path: problems.jsonl, part: train, held_out: 0.2}}]
  reward: {class_path: FunctionReward, init_args: {function: task.reward}}
evaluation:
  benchmarks:
    held_out: {class_path: FileProblems, init_args: {path: problems.jsonl, part: test, held_out: 0.2}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["Python", "YAML"])
def test_the_policy_learns_200_problems_of_ones_own(way: str, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    if way == "Python":
        (tmp_path / "ten_lines.py").write_text(PYTHON)
        output_of([sys.executable, "ten_lines.py"], tmp_path, environment)
    else:
        (tmp_path / "task.py").write_text(TASK)
        (tmp_path / "own.yaml").write_text(OVERLAY)
        output_of(["rence-lightning", "fit", "-c", "arithmetic", "-c", "own.yaml"], tmp_path, environment)
    lines = (tmp_path / "runs" / "own" / "evaluations.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["benchmarks"]["held_out"] for line in (lines[0], lines[-1]))
    assert first["problems"] > 30
    assert last["avg"] > first["avg"] + MARGIN, (first["avg"], last["avg"])
    assert (tmp_path / "runs" / "own" / "report.html").exists()
