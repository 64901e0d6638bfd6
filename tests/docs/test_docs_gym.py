"""The examples of docs/gym.md are configurations, and the tables of docs/smollm2.md and docs/gym.md are consistent."""

import re
from pathlib import Path

import yaml
from command_line import CONF, ROOT, config_of

from rence_lightning.prompts import GymProblems, GymTask, TwoNumberProblems
from rence_lightning.prompts.gym_generation import NOT_OFFERED

GYM = (ROOT / "docs" / "gym.md").read_text(encoding="utf-8")
SMOLLM2 = (ROOT / "docs" / "smollm2.md").read_text(encoding="utf-8")


def test_the_example_is_a_configuration_whose_tasks_exist(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", GYM, re.S)
    (tmp_path / "example.yaml").write_text(example)
    config = config_of("fit", f"--config={CONF / 'gym.yaml'}", f"--config={tmp_path / 'example.yaml'}")
    (source,) = yaml.safe_load(example)["data"]["problems"]
    assert config["data"]["problems"][0]["init_args"]["size"] == source["init_args"]["size"]
    tasks = {name: GymTask(**each) for name, each in source["init_args"]["tasks"].items()}
    problems = GymProblems(tasks, size=6).load()
    assert sorted(problem.source for problem in problems) == ["chain_sum"] * 4 + ["spell_backward"] * 2


def test_generators_that_are_not_offered_are_named() -> None:
    assert all(f"`{name}`" in GYM for name in NOT_OFFERED)


def test_the_counts_of_problems_are_those_of_the_source() -> None:
    train, test = (TwoNumberProblems(split).load() for split in ("train", "test"))
    sums = sum(problem.fields["operator"] == "+" for problem in (*train, *test))
    assert f"{sums} sums" in SMOLLM2
    assert f"{len(train) + len(test) - sums} products" in SMOLLM2
    assert re.search(rf"{len(test)} of these\s+{len(train) + len(test)} problems are held out", SMOLLM2)


def test_the_configuration_of_smollm2_trains_on_no_held_out_problem() -> None:
    config = config_of("fit", f"--config={CONF / 'smollm2.yaml'}")
    (training,) = config["data"]["problems"]
    (held_out,) = config["evaluation"]["benchmarks"].values()
    assert training["class_path"] == held_out["class_path"] == "rence_lightning.prompts.TwoNumberProblems"
    assert (training["init_args"]["split"], held_out["init_args"]["split"]) == ("train", "test")
