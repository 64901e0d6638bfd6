"""What docs/export.md and docs/loggers.md say of keys, files and tables is so, and their tasks fit our samples."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONF, ROOT, config_of
from test_docs import value_of

from rence_lightning.callbacks import ExportPolicy
from rence_lightning.evaluation import EvaluatedProblem
from rence_lightning.text import last_boxed

EXPORT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
LOGGERS = (ROOT / "docs" / "loggers.md").read_text(encoding="utf-8")


def test_the_table_of_keys_is_complete_and_has_the_defaults() -> None:
    rows = re.findall(r"^\| `export\.(\w+)` \| (\S+) \|", EXPORT, re.M)
    said = {name: yaml.safe_load(default.strip("`")) for name, default in rows}
    parameters = inspect.signature(ExportPolicy).parameters.values()
    assert said == {parameter.name: parameter.default for parameter in parameters}


@pytest.mark.parametrize("page", [EXPORT, LOGGERS], ids=["export", "loggers"])
def test_keys_that_are_named_exist(page: str) -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    keys = set(re.findall(rf"[`-]((?:{'|'.join(config)})(?:\.\w+)+)(?=[`: ])", page)) - {"evaluations.jsonl"}
    assert keys
    for key in keys:
        value_of(config, key)
    assert config["export"]["which"] == "best", "as the page says of conf/rence.yaml"


@pytest.mark.parametrize("settings", re.findall(r"```yaml\n(.*?)```", LOGGERS, re.S))
def test_the_examples_of_loggers_are_understood(settings: str, tmp_path: Path) -> None:
    (tmp_path / "loggers.yaml").write_text(settings)
    config = config_of("fit", f"--config={CONF / 'arithmetic.yaml'}", f"--config={tmp_path / 'loggers.yaml'}")
    (logger,) = config["trainer"]["loggers"]
    assert logger["class_path"].endswith(("WandbLogger", "TrackioLogger"))
    assert logger["init_args"]["project"] == "sums"


@pytest.fixture
def harness() -> dict[str, Any]:
    """The task of lm_eval."""
    (text,) = re.findall(r"```yaml\n(.*?)```", EXPORT, re.S)
    task: dict[str, Any] = yaml.safe_load(text)
    return task


def test_the_tasks_name_fields_of_an_evaluation(harness: dict[str, Any]) -> None:
    fields = {field.name for field in dataclasses.fields(EvaluatedProblem)}
    (code,) = re.findall(r"```python\n(.*?)```", EXPORT, re.S)
    compile(code, "sums_task.py", "exec")
    named = {
        harness["doc_to_text"].strip("{}"),
        harness["doc_to_target"].strip("{}"),
        *re.findall(r'row\["(\w+)"\]', code),
    }
    assert named == {"prompt", "answer"} <= fields


def test_the_tasks_read_the_box_that_we_read(harness: dict[str, Any]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", EXPORT, re.S)
    (pattern,) = re.findall(r're\.findall\(r"(.*?)"', code)
    assert pattern == harness["filter_list"][0]["filter"][0]["regex_pattern"]
    for text in (r"1+1=2,\boxed{2}", r"\boxed{3},\boxed{4}", r"\boxed{5},\boxed{6", "none", r"\boxed{}"):
        assert next(iter(re.findall(pattern, text)[::-1]), None) == last_boxed(text), text
