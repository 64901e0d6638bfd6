"""The policy-gradient objectives against the loss of TRL's GRPOTrainer, on the same tensors.

The trainer is built for real around a small policy; responses and rewards come in through its public `rollout_func`
and `reward_funcs`, and only the log-probabilities, which a model would compute, are given.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_groups import TOKENS, random_groups, value_and_gradient
from torch import Tensor

from rence_lightning.objectives import DAPO, GRPO, GSPO, DrGRPO, PolicyGradient, ResponseTensors
from rence_lightning.policy import load_policy

trl = pytest.importorskip("trl", reason="TRL is not installed (pip install 'rence_lightning[bench]')")
pytest.importorskip("accelerate", reason="TRL's trainer needs accelerate, which is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:You are using 'rollout_func'")
KNOWN = ("1.16.",)
"""Versions with which these tests must pass; others may have moved their internals."""


@contextmanager
def internals(part: str) -> Iterator[None]:
    """Skips the test where another version of TRL cannot be called in this way."""
    try:
        yield
    except Exception as error:
        if trl.__version__.startswith(KNOWN):
            raise
        reason = f"{part} of TRL {trl.__version__} does not fit this test, written for {KNOWN[0]}x: {error!r}"
        pytest.skip(reason, allow_module_level=True)


with internals("the import"):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

Case = tuple[PolicyGradient, dict[str, Any]]
CASES: dict[str, Case] = {
    "GRPO": (GRPO(0.2, 0.3), {"loss_type": "grpo", "epsilon": 0.2, "epsilon_high": 0.3}),
    "DAPO": (DAPO(0.2, 0.28), {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}),
    "GSPO": (
        GSPO(0.03, 0.04),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    ),
    "DrGRPO": (
        DrGRPO(12, 0.2, 0.2),
        {"loss_type": "dr_grpo", "epsilon": 0.2, "scale_rewards": "none", "max_completion_length": 12},
    ),
}


class CannedTrainer(GRPOTrainer):
    """TRL's trainer with log-probabilities that no model has computed."""

    log_probs: Tensor

    def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return self.log_probs, torch.zeros_like(self.log_probs), None


Build = Callable[[ResponseTensors, dict[str, Any]], CannedTrainer]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    policy = load_policy("embedded:arithmetic")
    folder: Path = tmp_path_factory.mktemp("trl")

    def builder(groups: ResponseTensors, settings: dict[str, Any]) -> CannedTrainer:
        """A trainer whose prompts are answered with responses of the lengths and rewards of `groups`."""
        rows = groups.rewards.numel()
        lengths = groups.lengths.flatten().tolist()

        def rollout(prompts: list[str], _: Any) -> dict[str, Any]:
            return {"prompt_ids": [[3]] * len(prompts), "completion_ids": [[4] * n for n in lengths], "logprobs": None}

        def reward(**_: Any) -> list[float]:
            return groups.rewards.flatten().tolist()

        with internals("GRPOTrainer"):
            trainer = CannedTrainer(
                policy.model,
                [reward],
                GRPOConfig(
                    **{"max_completion_length": TOKENS, **settings},
                    beta=0.0,
                    num_generations=groups.rewards.shape[1],
                    num_generations_eval=groups.rewards.shape[1],
                    per_device_train_batch_size=rows,
                    steps_per_generation=1,
                    output_dir=str(folder),
                    use_cpu=True,
                    bf16=False,
                    report_to="none",
                ),
                train_dataset=Dataset.from_dict({"prompt": ["1+1"] * rows}),
                processing_class=policy.tokenizer,
                rollout_func=rollout,
            )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1  # set by a training loop, which does not run here
        trainer.log_probs = groups.log_probs.flatten(0, 1)
        return trainer

    return builder


def score(trainer: CannedTrainer, groups: ResponseTensors) -> dict[str, Any]:
    """TRL's batch of these groups, with its own masks, counts and advantages, and their old log-probabilities."""
    with internals("_generate_and_score_completions"):
        batch = trainer._generate_and_score_completions([{"prompt": "1+1"}] * groups.rewards.numel())
        assert torch.equal(batch["completion_mask"].bool(), groups.mask.flatten(0, 1))
    return {**batch, "old_per_token_logps": groups.old_log_probs.flatten(0, 1)}


def loss_of(trainer: CannedTrainer, batch: dict[str, Any], groups: ResponseTensors) -> tuple[Tensor, Tensor]:
    """TRL's loss and its gradient by the log-probabilities."""
    with internals("_compute_loss"):
        loss = trainer._compute_loss(trainer.model, batch)
    (gradient,) = torch.autograd.grad(loss, groups.log_probs)
    return loss.detach(), gradient


def groups_of_full_length(seed: int) -> ResponseTensors:
    """TRL pads to the longest response, so one must be of full length."""
    groups = random_groups(seed=seed)
    mask = groups.mask.clone()
    mask[0, 0] = True
    return replace(groups, mask=mask)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_those_of_trl(name: str, seed: int, build: Build) -> None:
    """Of the same log-probabilities and advantages: ratio, clipping and mean."""
    (objective, settings), groups = CASES[name], groups_of_full_length(seed)
    trainer = build(groups, settings)
    batch = {**score(trainer, groups), "advantages": objective.advantage(groups).flatten()}
    loss, gradient = loss_of(trainer, batch, groups)
    value, expected = value_and_gradient(objective, groups)
    torch.testing.assert_close(value, loss)
    torch.testing.assert_close(expected, gradient)
    assert gradient.abs().sum() > 0.01


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_from_rewards_to_gradient_only_the_epsilon_differs(name: str, seed: int, build: Build) -> None:
    """TRL adds 1e-4 to the standard deviation s, this package 1e-6: TRL's advantages and gradients are the smaller, by
    a share of 9.9e-5 / (s + 1e-4). (TRL's rewards are in float32, hence the 1e-6.)"""
    (objective, settings), groups = CASES[name], groups_of_full_length(seed)
    trainer = build(groups, settings)
    batch = score(trainer, groups)
    advantages = batch["advantages"].view_as(groups.rewards).double()
    _, gradient = loss_of(trainer, batch, groups)
    _, expected = value_and_gradient(objective, groups)
    s = groups.rewards.std(-1, keepdim=True)
    share = torch.zeros_like(s) if name == "DrGRPO" else 9.9e-5 / (s + 1e-4)
    ours = objective.advantage(groups)
    assert (s > 0).any() and ours.abs().max() > 0.3
    assert ((ours - advantages).abs() <= (share + 1e-6) * ours.abs() + 1e-6).all()
    assert ((expected - gradient).abs() <= (share.unsqueeze(-1) + 1e-5) * expected.abs() + 1e-9).all()
    assert name == "DrGRPO" or ((ours - advantages).abs() > 1e-5).any(), "the epsilons do not differ any more"
