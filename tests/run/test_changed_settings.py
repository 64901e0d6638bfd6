"""What a resumed run may change."""

import pytest

from rence_lightning.errors import UserError
from rence_lightning.run.changed_settings import by_setting, changes

BEFORE = """
ckpt_path: null
model:
  policy: embedded:arithmetic
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.001, betas: [0.9, 0.95]}}
data:
  problems: [{class_path: A, init_args: {split: train}}]
"""


def test_every_setting_that_differs_is_named() -> None:
    now = BEFORE.replace("0.001", "0.002").replace("[0.9, 0.95]", "[0.9, 0.99]").replace("null", "last")
    now += "  group_size: 4\n"
    assert [str(change) for change in changes(BEFORE, now)] == [
        "model.optimizer.lr: 0.001 -> 0.002",
        "model.optimizer.betas: [0.9, 0.95] -> [0.9, 0.99]",
        "data.group_size: None -> 4",
    ]
    assert changes(BEFORE, BEFORE) == []


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("embedded:arithmetic", "other", "model.policy is other, but the checkpoint was made with embedded:arithmetic"),
        ("torch.optim.AdamW", "torch.optim.SGD", "model.optimizer.class_path is torch.optim.SGD"),
    ],
)
def test_what_the_state_depends_on_is_refused(old: str, new: str, key: str) -> None:
    with pytest.raises(UserError, match=key):
        changes(BEFORE, BEFORE.replace(old, new))


RUN = """
seed_everything: {seed}
trainer: {{run_dir: runs/x, loggers: [{{class_path: A, init_args: {{name: x}}}}]}}
model:
  optimizer: {{class_path: AdamW, init_args: {{lr: {lr}}}}}
  objective: {{class_path: a.{objective}}}
  lora: {lora}
data: {{size: 4, sampling: {{temperature: {sampling}}}}}
evaluation: {{sampling: {{temperature: {temperature}}}}}
"""
BASE = {
    "seed": "0",
    "objective": "NCE, init_args: {beta: 0.1}",
    "lr": "1.0e-05",
    "lora": "null",
    "sampling": "1.0",
    "temperature": "1.0",
}


def config(**changes: str) -> str:
    return RUN.format(**{**BASE, **changes})


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([{}, {"seed": "1"}, {"lr": "0.02"}, {"lr": "0.02", "seed": "1"}], {"lr 1e-5": "ab", "lr 0.02": "cd"}),
        ([{}, {}, {"seed": "1"}], {"a": "ac", "b": "b"}),  # a repetition is no seed
        ([{}, {}, {"lr": "0.02"}], {"lr 1e-5 a": "a", "lr 1e-5 b": "b", "lr 0.02": "c"}),
        # the arguments that one class alone has are no further differences, but those that differ are
        ([{}, {"objective": "DPO, init_args: {beta: 0.1, pairs: all}"}], {"objective NCE": "a", "objective DPO": "b"}),
        (
            [{}, {"objective": "NCE, init_args: {beta: 0.2}"}, {"objective": "GRPO"}],
            {"objective NCE, beta 0.1": "a", "objective NCE, beta 0.2": "b", "objective GRPO, beta -": "c"},
        ),
        ([{}, {"lora": "{rank: 8, alpha: 16}"}], {"lora null": "a", "lora rank 8, alpha 16": "b"}),
        (
            [{}, {"temperature": "0.7", "sampling": "0.5"}],
            {"data.sampling.temperature 1.0, evaluation.sampling.temperature 1.0": "a",
             "data.sampling.temperature 0.5, evaluation.sampling.temperature 0.7": "b"},
        ),
    ],
)  # fmt: skip
def test_runs_are_grouped_by_what_differs(runs: list[dict[str, str]], labels: dict[str, str]) -> None:
    found = by_setting({name: config(**each) for name, each in zip("abcd", runs, strict=False)})
    assert {each.label: "".join(each.seeds) for each in found} == labels


def test_the_differing_settings_have_whole_keys_and_a_run_without_a_configuration_none() -> None:
    configs = {"a": config(), "b": config(lr="0.02", seed="1"), "c": "", "d": ""}
    found = by_setting(configs)
    assert [each.values for each in found] == [{"model.optimizer.lr": value} for value in ("1e-5", "0.02", "-", "-")]
    assert [each.seeds for each in found] == [{"a": 0}, {"b": 1}, {"c": None}, {"d": None}]
    long = by_setting({"a": config(), "b": config(objective="NCE, init_args: {beta: " + "x" * 99 + "}")})
    assert len(long[1].values["model.objective.beta"]) == 40
