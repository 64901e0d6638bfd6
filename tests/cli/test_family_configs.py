"""conf/family/: an overlay for each relative of ReNCE, on the demo and on the paper's settings."""

import csv
from pathlib import Path
from typing import Any

import pytest
from command_line import CONF, config_of

from rence_lightning import objectives
from rence_lightning.cli.main import main

FILES = sorted((CONF / "family").glob("*.yaml"))
LIMIT = {"kl_coef": 1000.0, "delta": 1e-4, "estimator": "k1", "reduction": "token"}
NONE = {"kl_coef": 0.0, "delta": None, "estimator": "k3", "reduction": "token"}
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "disco": ("DisCO", {"score": "log_likelihood", "tau": 10.0}, LIMIT),
    "disco_b": ("DisCO", {"score": "log_likelihood", "tau": None}, LIMIT),
    "disco_ratio": ("DisCO", {"score": "likelihood_ratio", "tau": 1.0}, LIMIT),
    "grpo_reference": ("GRPO", {"clip_low": 0.2, "clip_high": 0.2}, NONE),
    "max_rl": ("MaxRL", {"clip_low": 0.2, "clip_high": 0.2}, NONE),
    "nft": ("NFT", {"epsilon": 1.0, "prompt_weight": "failures"}, NONE),
    "pacs": ("PACS", {"beta": 1.0, "balanced": True, "alpha": 0.0, "margin": "none"}, NONE),
    "two_grpo": ("GRPO", {"clip_low": 0.2, "clip_high": 0.2}, NONE),
}
"""The class, its settings and the trust region of each file."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("base", ["arithmetic", "rence"])
def test_a_file_says_all_of_its_method_and_nothing_else(file: Path, base: str) -> None:
    name, settings, region = METHODS[file.stem]
    plain = config_of("fit", f"--config={CONF / base}.yaml")
    config = config_of("fit", f"--config={CONF / base}.yaml", f"--config={file}")
    objective = config["model"].pop("objective")
    assert objective["class_path"] == f"rence_lightning.objectives.{name}"
    assert objective["init_args"] == {**settings, "tis_cap": None}
    assert config["model"].pop("trust_region") == region
    reference = config["model"].pop("reference")
    assert reference == ({"kl_coef": 0.04} if file.stem == "grpo_reference" else None)
    assert config["trainer"].pop("run_dir") == f"runs/family_{file.stem}"
    assert config["adaptive_kl"].pop("enabled") is False
    filters = ("ZeroVarianceFilter", {"t_master": 1.0}) if file.stem == "nft" else ("NoFilter", {})
    chosen = config["data"].pop("filter")
    assert (chosen["class_path"].rpartition(".")[2], chosen.get("init_args", {})) == filters
    assert config["data"].pop("group_size") == (2 if file.stem == "two_grpo" else 8)
    updates = config["data"].pop("prompts_per_update")
    assert updates == plain["data"]["prompts_per_iteration" if file.stem == "max_rl" else "prompts_per_update"]
    for section, keys in (
        ("model", ["objective", "trust_region", "reference"]),
        ("trainer", ["run_dir"]),
        ("adaptive_kl", ["enabled"]),
        ("data", ["filter", "group_size", "prompts_per_update"]),
    ):
        for key in keys:
            plain[section].pop(key)
    assert config == plain


def test_every_method_that_is_not_of_the_paper_has_a_file() -> None:
    assert sorted(METHODS) == [file.stem for file in FILES]
    assert all(getattr(objectives, name) for name, _, _ in METHODS.values())


@pytest.mark.parametrize(
    "name", ["disco", *(pytest.param(name, marks=pytest.mark.slow) for name in ("max_rl", "nft", "pacs"))]
)
def test_a_file_of_each_objective_trains_the_demo(name: str, tmp_path: Path) -> None:
    """One iteration of two updates or, for MaxRL, one."""
    run = tmp_path / "run"
    main(
        [
            *("fit", f"--config={CONF / 'arithmetic.yaml'}", f"--config={CONF / 'family' / name}.yaml"),
            *("--data.prompts_per_iteration=8", "--data.prompts_per_draw=8", "--trainer.max_iterations=1"),
            *([] if name == "max_rl" else ["--data.prompts_per_update=4"]),
            *("--evaluation.limit=4", "--evaluation.repeats=1", f"--trainer.run_dir={run}", "--report.enabled=false"),
        ]
    )
    with (run / "metrics.csv").open() as table:
        updates = [row for row in csv.DictReader(table) if row["train/loss"]]
    assert len(updates) == (1 if name == "max_rl" else 2)
    assert all(float(row["train/grad_norm"]) > 0 for row in updates)
    assert float(updates[0]["train/kl"]) == 0
