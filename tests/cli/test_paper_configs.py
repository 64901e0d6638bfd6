"""conf/paper/: a file for each row of the paper's Tables 1 to 4, and what each changes."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import CONF, ROOT, config_of

from benchmarks.study.spec import load_spec
from rence_lightning.cli.main import main
from rence_lightning.policy import load_policy

ROWS = sorted(file.stem for file in (CONF / "paper").glob("*.yaml"))
STUDY = load_spec(ROOT / "benchmarks" / "study" / "study.yaml")
STUDIED = {
    Path(method.config).stem: dict(method.options)
    for method in STUDY.methods.values()
    if method.config.startswith("conf/paper")
}

NO_KL = {"model.trust_region.kl_coef": 0.0, "adaptive_kl.enabled": False}
NO_MARGIN = {"model.objective.init_args.alpha": 0.0, "model.objective.init_args.margin": "none"}
ZERO_VARIANCE = {"data.filter": ("ZeroVarianceFilter", {"t_master": 1.0})}
DAPO = {
    **NO_KL,
    "trainer.max_iterations": 80,
    "model.objective": (
        "DAPO",
        {
            "clip_low": 0.2,
            "clip_high": 0.28,
            "tis_cap": None,
            "overlong_buffer": 1331,
            "max_response_tokens": 6656,
        },
    ),
}


def contrastive(name: str) -> dict[str, Any]:
    settings = {"beta": 0.1, "alpha": 0.0, "margin": "none", "tis_cap": None}
    return {"model.objective": (name, settings)}


DIFFERENCES: dict[str, dict[str, Any]] = {
    "table1_no_training": {},
    "table1_grpo": {
        **NO_KL,
        "trainer.max_iterations": 200,
        "model.objective": ("GRPO", {"clip_low": 0.2, "clip_high": 0.2, "tis_cap": None}),
        "data.filter": ("NoFilter", {}),
        "data.prompts_per_update": 128,
        "evaluation.every": 20,
        "checkpoint.every": 20,
    },
    "table1_dapo": {**DAPO, **ZERO_VARIANCE},
    "table1_semi_online_dpo": {**NO_KL, **contrastive("AllPairs"), **ZERO_VARIANCE, "trainer.max_iterations": 80},
    "table1_rence": {},
    "table2_rence": {},
    "table2_no_kl": NO_KL,
    "table2_no_margin": NO_MARGIN,
    "table2_constant_margin": {"model.objective.init_args.margin": "constant"},
    "table2_iterative": {
        **NO_KL,
        "trainer.max_iterations": 6,
        "data.prompts_per_iteration": 4096,
        "evaluation.every": 1,
    },
    "table3_rence_t_easy_0.5": {},
    "table3_rence_t_easy_0.99": {"data.filter.init_args.t_easy": 0.99},
    "table3_dapo_t_easy_0.5": {**DAPO, "data.filter.init_args.t_master": 1.0},
    "table3_dapo_t_easy_0.99": {**DAPO, **ZERO_VARIANCE},
    "table4_mnce": NO_MARGIN,
    "table4_softmax": contrastive("SoftmaxContrast"),
    "table4_random_pair": contrastive("RandomPair"),
    "table4_all_pairs": contrastive("AllPairs"),
}


def differences(base: Any, row: Any, key: str = "") -> dict[str, Any]:
    """Where two configurations differ, by dotted key; a part of another class counts as a whole."""
    if base == row:
        return {}
    if not isinstance(base, dict) or not isinstance(row, dict):
        return {key: row}
    if base.get("class_path") != row.get("class_path"):
        return {key: (row["class_path"].rpartition(".")[2], row.get("init_args", {}))}
    assert base.keys() == row.keys(), key
    found: dict[str, Any] = {}
    for name in base:
        found |= differences(base[name], row[name], f"{key}.{name}".removeprefix("."))
    return found


def row_file(row: str) -> str:
    return f"--config={CONF / 'paper' / row}.yaml"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_changes_what_the_paper_says_and_nothing_else(row: str) -> None:
    base = config_of("fit", f"--config={CONF / 'rence.yaml'}")
    changed = differences(base, config_of("fit", f"--config={CONF / 'rence.yaml'}", row_file(row)))
    assert changed.pop("trainer.run_dir") == f"runs/{row}"
    assert changed == DIFFERENCES[row]


def test_float16_changes_two_types_and_nothing_else() -> None:
    configs = [f"--config={CONF / name}" for name in ("rence.yaml", "precision/float16.yaml")]
    base, changed = (config_of("fit", *configs[:number]) for number in (1, 2))
    assert (base["trainer"]["precision"], base["data"]["engine"]["init_args"]["dtype"]) == ("bf16-mixed", "bfloat16")
    assert differences(base, changed) == {"trainer.precision": "16-mixed", "data.engine.init_args.dtype": "float16"}


def test_every_row_is_a_method_of_the_study_or_the_same_as_one() -> None:
    assert sorted(DIFFERENCES) == ROWS
    assert STUDIED.keys() <= set(ROWS)
    assert all(same_method(row) for row in ROWS if row != "table1_no_training")


def same_method(row: str) -> str:
    """The row of the study that has the settings of a row."""
    return next((other for other in STUDIED if DIFFERENCES[other] == DIFFERENCES[row]), "")


@pytest.mark.parametrize(
    "row", ["table1_dapo", "table1_rence", pytest.param("table1_no_training", marks=pytest.mark.slow)]
)
def test_a_row_runs_at_small_scale(row: str, tmp_path: Path) -> None:
    """One iteration on the arithmetic policy, with the overlay and the options of the small tables."""
    run = tmp_path / "run"
    main(
        [
            "validate" if row == "table1_no_training" else "fit",
            *(f"--config={CONF / 'rence.yaml'}", row_file(row), f"--config={CONF / 'small' / 'arithmetic.yaml'}"),
            *(f"--{key}={value}" for key, value in STUDIED.get(same_method(row), {}).items()),
            *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--data.prompts_per_draw=8"),
            *("--trainer.max_iterations=1", "--evaluation.limit=4", "--evaluation.repeats=1"),
            f"--trainer.run_dir={run}",
        ]
    )
    if row == "table1_no_training":
        assert (tmp_path / "run-validate" / "evaluations.jsonl").exists()
        return
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    updates = [update for update in rows if update["train/loss"]]
    assert len(updates) == 2
    assert ("train/clip_share" in rows[0]) == (row == "table1_dapo")
    (iteration,) = [row for row in rows if row["rollouts/reward"]]
    seen = {"rollouts/entropy", "iteration/kl", "iteration/positive_log_ratio", "iteration/negative_log_ratio"}
    seen |= {"iteration/grad_norm", "rollouts/share_kept", "rollouts/share_too_easy", "rollouts/share_too_hard"}
    assert all(iteration[name] for name in seen | {"rollouts/share_mastered"}), "what divergence is seen by"
    start, end = load_policy("embedded:arithmetic"), load_policy(str(run / "hf"))
    assert any(
        not torch.equal(one, other)
        for one, other in zip(start.state_dict().values(), end.state_dict().values(), strict=True)
    ), "nothing was learned"
