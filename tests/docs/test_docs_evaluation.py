"""What docs/evaluation.md says of answers, benchmarks and keys is so, and its example of a reward trains."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from command_line import CONF, ROOT, config_of
from test_docs import value_of

from rence_lightning.cli.main import main
from rence_lightning.evaluation import BENCHMARKS, read_evaluations
from rence_lightning.rewards import math_equivalent

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    lines = PAGE.split(f"## {heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def answers(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", table("What counts as right"), ids=lambda row: row[0])
def test_the_policy_is_what_the_table_says(row: list[str]) -> None:
    reference, right, wrong = map(answers, row)
    assert right and wrong
    for gold in reference:
        for prediction in right:
            assert math_equivalent(gold, prediction), f"{gold} should equal {prediction}"
        for prediction in wrong:
            assert not math_equivalent(gold, prediction), f"{gold} should not equal {prediction}"


def test_the_benchmarks_are_those_of_the_registry() -> None:
    rows = {answers(row[0])[0]: row[1:] for row in table("Benchmarks")}
    assert rows.keys() == BENCHMARKS.keys()
    for name, (hub, counts, _) in rows.items():
        assert hub == BENCHMARKS[name].hub
        assert tuple(int(count.replace(",", "")) for count in counts.split(" or ")) == BENCHMARKS[name].counts


def test_keys_that_are_named_exist() -> None:
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    keys = set(re.findall(rf"[`-]((?:{'|'.join(config)})(?:\.\w+)+)(?=[`: ])", PAGE))
    assert len(keys) > 7, "the pattern no longer finds the keys"
    for key in keys:
        value_of(config, key)


def test_files_that_are_named_exist() -> None:
    for path in set(re.findall(r"\bconf/[\w/]+\.yaml", PAGE)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", re.findall(r"^python -m rence_lightning (validate .*)$", PAGE, re.M))
def test_commands_are_understood(command: str) -> None:
    """All but the run itself, which wants a GPU and the hub."""
    options = [re.sub(r"^conf/", f"{CONF}/", option) for option in command.split()]
    assert config_of(*options)["evaluation"]["benchmarks"].keys() == BENCHMARKS.keys() - {"gsm8k"}


def test_the_example_of_a_reward_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = re.findall(r"```python\n# my_rewards.py\n(.*?)```", PAGE, re.S)
    (tmp_path / "my_rewards.py").write_text(source)
    (settings,) = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "my_rewards" in text]
    (tmp_path / "reward.yaml").write_text(settings)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    main(
        [
            *("fit", f"--config={CONF / 'arithmetic.yaml'}", f"--config={tmp_path / 'reward.yaml'}"),
            *(f"--trainer.run_dir={tmp_path / 'run'}", "--trainer.max_iterations=1", "--evaluation.limit=8"),
            *("--data.prompts_per_iteration=4", "--data.prompts_per_update=4", "--data.prompts_per_draw=8"),
        ]
    )
    row = json.loads((tmp_path / "run" / "rollouts" / "iteration-0001.jsonl").read_text().splitlines()[0])
    for response in row["responses"]:
        parts = response["parts"]
        assert parts["brevity"] == pytest.approx(max(0.0, 1 - response["tokens"] / 400))
        assert response["reward"] == pytest.approx(0.9 * parts["math"] + 0.1 * parts["brevity"])
    assert (tmp_path / "run" / "report.html").exists()
    assert len(read_evaluations(tmp_path / "run" / "evaluations.jsonl")) == 2


@pytest.mark.data
def test_the_local_overlays_name_the_paper_s_data(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENCE_DATA", str(data_folder))
    overlays = [f"--config={CONF / 'data' / name}" for name in ("paper_local.yaml", "benchmarks_local.yaml")]
    config = config_of("fit", f"--config={CONF / 'rence.yaml'}", *overlays)
    files = [source["init_args"]["path"] for source in config["data"]["problems"]]
    files += [source["init_args"]["path"] for source in config["evaluation"]["benchmarks"].values()]
    assert len(files) == 8
    assert all(Path(file).exists() for file in files)
    assert all(source["init_args"]["answer_format"] == "plain" for source in config["data"]["problems"])
    assert yaml.safe_dump(config)
