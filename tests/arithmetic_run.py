"""A small run of the embedded policy, built without the command line."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything

from rence_lightning.callbacks import (
    AdaptiveKL,
    BenchmarkEvaluation,
    Checkpoint,
    ExportPolicy,
    OldPolicySnapshot,
    Progress,
    RolloutLog,
)
from rence_lightning.objectives import MultiLabelNCE
from rence_lightning.prompts import ArithmeticProblems, PromptTemplate
from rence_lightning.rewards import MathReward
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling import PositiveRatioFilter
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

TIMING = (
    *("tail_seconds", "wait_seconds", "responses_discarded"),
    *("mismatch_kl", "mismatch_kl_response", "engine_score_offset"),
    *("mismatch_abs", "mismatch_abs_max"),
    *(f"time/{phase}" for phase in ("rollouts", "old_policy", "updates", "evaluation", "other")),
)
"""Figures that depend on timing, so that equal runs differ in them. When groups are cancelled decides which
responses share a batch, and so the last digit of the engine's log-probabilities."""

POLICY = "embedded:arithmetic"
SAMPLING = Sampling(max_response_tokens=64)


def make_module(kind: type[PolicyModule] = PolicyModule, **settings: Any) -> PolicyModule:
    settings = {
        "policy": POLICY,
        "objective": MultiLabelNCE(beta=0.1, alpha=0.5),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0),
        **settings,
    }
    return kind(**settings)


def make_data(kind: type[RolloutDataModule] = RolloutDataModule, **settings: Any) -> RolloutDataModule:
    settings = {
        "problems": [ArithmeticProblems("train")],
        "template": PromptTemplate("{problem}\n", chat=False),
        "reward": MathReward(timeout=1.0),
        "filter": PositiveRatioFilter(),
        "sampling": SAMPLING,
        "group_size": 8,
        "prompts_per_iteration": 6,
        "prompts_per_update": 3,
        "prompts_per_draw": 8,
        "max_prompt_tokens": 32,
        **settings,
    }
    return kind(**settings)


def make_trainer(run_dir: Path, callbacks: list[Any] | None = None, **settings: Any) -> Trainer:
    settings = {"max_iterations": 2, "accelerator": "cpu", "devices": 1, "micro_batch_tokens": 4096, **settings}
    callbacks = [OldPolicySnapshot(), AdaptiveKL(), RolloutLog(), *(callbacks or [])]
    return Trainer(run_dir=str(run_dir), callbacks=callbacks, **settings)


def small_evaluation(**settings: Any) -> BenchmarkEvaluation:
    settings = {
        "benchmarks": {"arithmetic": ArithmeticProblems("test")},
        "repeats": 2,
        "limit": 20,
        "sampling": SAMPLING,
        **settings,
    }
    return BenchmarkEvaluation(**settings)


def finishing_callbacks(keep_last: int = 1) -> list[Any]:
    return [Progress(), small_evaluation(), ExportPolicy(), Checkpoint(every=2, keep_last=keep_last)]


def fresh_start(seed: int = 0) -> None:
    seed_everything(seed, verbose=False)


def state_of(run_dir: Path) -> tuple[Any, Any]:
    last = run_dir / "checkpoints" / "last"
    return torch.load(last / "state", weights_only=True), torch.load(last / "rng-0", weights_only=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}/{index}")
    elif not where.endswith(TIMING):
        assert one == other, f"{where}: {one} != {other}"
