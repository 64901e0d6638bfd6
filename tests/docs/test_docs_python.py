"""The examples of docs/python.md run, in their order, and mypy finds their types right."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT

from rence_lightning.training.hooks import SUPPORTED

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.slow
def test_the_examples_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two iterations in place of ten; that the policy learns is shown where the wheel is installed."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in EXAMPLES:
        exec(code.replace("max_iterations=10", "max_iterations=2"), names)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        *("sums", "sums-validate", "grpo", "early", "longest", "problems")
    }
    printed = capsys.readouterr().out
    assert re.search(r"^Result\('runs/sums', held_out: [\d.]+% -> [\d.]+%\)$", printed, re.M)
    assert re.search(r"^Result\('runs/sums-validate', hard: [\d.]+%\)$", printed, re.M)
    ((step, longest),) = names["result"].curve("own/longest")
    assert step == 0 and longest > 1


def test_the_types_of_the_examples_are_right(tmp_path: Path) -> None:
    """A caller's mistakes are found, too: a number as a reward, and an attribute that the result has not."""
    (tmp_path / "examples.py").write_text("\n".join(EXAMPLES))
    wrong = "from rence_lightning import fit\nfit(reward=3)\nfit().policy.generat('1+1=?')\nfit(max_iterations='2')\n"
    (tmp_path / "wrong.py").write_text(wrong)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "--cache-dir"]
    command += [str(ROOT / ".mypy_cache" / "examples"), "--follow-imports=silent"]
    right = subprocess.run(
        [*command, str(tmp_path / "examples.py")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert right.returncode == 0, right.stdout
    found = subprocess.run(
        [*command, str(tmp_path / "wrong.py")], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert [int(line) for line in re.findall(r"wrong\.py:(\d+): error", found)] == [2, 3, 4], found


def test_the_callbacks_that_are_listed_are_those_that_run() -> None:
    table = PAGE.split("| callback |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", table, re.M)))) == sorted(SUPPORTED)
