"""What docs/methods.md says of files, keys, classes and values is so, and its example runs."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import CONF, ROOT, printed_config

from rence_lightning.cli import main

METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", METHODS)))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("path", [span for span in SPANS if re.fullmatch(r"[\w/.]+\.(py|yaml|md)", span)])
def test_files_that_are_named_exist(path: str) -> None:
    assert path in ("metrics.csv", "my_objective.py") or (ROOT / path).exists()


def test_keys_that_are_named_exist_and_have_the_values_that_are_given(capfd: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capfd, "fit", f"--config={CONF / 'rence.yaml'}")
    sections = "|".join(config)
    keys = [span for span in SPANS if re.fullmatch(rf"({sections})(\.\w+)*", span)]
    assert len(keys) > 25, "the pattern no longer finds the keys"
    for key in keys:
        value_of(config, key)
    for row in re.findall(r"^\| .* \| (`.*`) \| (.*) \|$", METHODS.split("## Numbers")[1].split("\n## ")[0], re.M):
        names, values = re.findall(r"`([^`]+)`", row[0]), row[1].split(", ")
        for name, value in zip(names, values, strict=False):
            if name != "model.optimizer" and (number := re.match(r"[\d.]+$|[\d.]+(?= )", value.removeprefix("avg@"))):
                assert value_of(config, name) == float(number[0]), name


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        assert name in config, key
        config = config[name]
    return config


def test_classes_and_functions_that_are_named_exist() -> None:
    rooms = [importlib.import_module(f"rence_lightning.{room}") for room in ("objectives", "prompts")]
    table = METHODS.split("## Objectives")[1].split("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", table, re.M) + re.findall(r"`(\w+(?:Filter|Skipping))`", table)
    assert len(names) > 10
    for name in names:
        assert any(hasattr(room, name) for room in rooms), name
    for path, name in re.findall(r"`(rence_lightning/[\w/]+)\.py`, `([\w.]+)`", METHODS):
        part: Any = importlib.import_module(path.replace("/", "."))
        for attribute in name.split("."):
            part = getattr(part, attribute)


def test_the_objective_of_the_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", METHODS, re.S)
    (tmp_path / "my_objective.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    main(
        [
            *("fit", f"--config={CONF / 'arithmetic.yaml'}", "--model.objective=my_objective.Hinge"),
            *("--model.objective.init_args.gap=0.2", f"--trainer.run_dir={run}", "--trainer.max_iterations=1"),
            *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--evaluation.every=0"),
        ]
    )
    assert "gap: 0.2" in (run / "config.yaml").read_text()
    assert sys.modules["my_objective"].Hinge().gap == 0.1
