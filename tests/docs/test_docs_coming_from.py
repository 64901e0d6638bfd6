"""Rows and reward functions of other trainers work as the page says."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import ROOT

from rence_lightning import Problem
from rence_lightning.prompts import FileProblems
from rence_lightning.rewards import FunctionReward, Response

PAGE = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
CHAT = [{"role": "user", "content": "1+1=?"}]
ROWS: dict[str, list[dict[str, Any]]] = {
    "TRL: `prompt` a text, `answer`": [{"prompt": "1+1=?", "answer": "2"}],
    "TRL: `prompt` a list of messages, `solution`": [{"prompt": CHAT, "solution": "2"}],
    "verl: `prompt` a list of messages, `reward_model.ground_truth`": [
        {"data_source": "sums", "prompt": CHAT, "reward_model": {"style": "rule", "ground_truth": "2"}}
    ],
    "OpenRLHF: `input`, `label`": [{"input": "1+1=?", "label": "2"}],
    "a solution that ends in `\\boxed{...}`, or in `#### 12`": [
        {"problem": "1+1=?", "answer": r"So it is \boxed{2}."},
        {"problem": "1+1=?", "answer": "One and one.\n#### 2"},
    ],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_read_with_the_settings_that_are_named(name: str, tmp_path: Path) -> None:
    (cell,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", PAGE, re.M)
    settings = [dict([each]) for each in re.findall(r"`(\w+): ([\w.]+)`", cell)]
    rows = ROWS[name]
    if len(rows) == 1:
        settings = [{key: value for each in settings for key, value in each.items()}]
    for row, named in zip(rows, settings, strict=True):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row))
        (problem,) = FileProblems(str(tmp_path / "rows.jsonl"), **named).load()
        assert (problem.problem, problem.answer, problem.fields) == ("1+1=?", "2", row)


def test_reward_functions_of_other_trainers_are_called_as_they_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def accuracy(prompts: list[str], completions: list[str], answer: list[str], **columns: list[Any]) -> list[float]:
        calls.append({"prompts": prompts, **columns})
        return [float(right in text) for text, right in zip(completions, answer, strict=True)]

    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
        calls.append((data_source, extra_info))
        return float(ground_truth in solution_str)

    def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, torch.Tensor]:
        calls.append(prompts)
        texts = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
        return {"rewards": torch.tensor([float(label in text) for label, text in zip(labels, texts, strict=True)])}

    functions = {"accuracy": accuracy, "compute_score": compute_score, "reward_func": reward_func}
    monkeypatch.setitem(sys.modules, "my_project", SimpleNamespace(**functions))  # type: ignore[arg-type]
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    fields = {"data_source": "sums", "prompt": CHAT, "extra_info": {"index": 7}}  # the answer under another name
    problem = Problem("1", "1+1=?", "2", "sums", fields)
    responses = [Response(problem, text, prompt_text="<user>1+1=?") for text in ("it is 2", "it is 3")]
    module = importlib.import_module("my_rewards")
    for name in ("of_trl", "of_verl", "of_openrlhf"):
        scores = FunctionReward(getattr(module, name)).score(responses)
        assert [score.reward for score in scores] == [1.0, 0.0], name
    columns = {"prompts": ["<user>1+1=?"], "data_source": ["sums"], "extra_info": [{"index": 7}]}
    assert calls == [*[columns] * 2, *[("sums", {"index": 7})] * 2, *[["<user>1+1=?"]] * 2]
