"""The batch of an iteration in plain types, so that a run can be saved between two updates."""

from array import array
from typing import Any

import torch

from rence_lightning.distributed import gather
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Score
from rence_lightning.rollouts import Rollout
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.curriculum.filtering import Outcome
from rence_lightning.sampling.groups import Group


def pending_state(batch: IterationBatch) -> dict[str, Any]:
    """The state that the remaining updates of an iteration depend on. Every rank must call it, because the tokens of a
    group are on the rank that trains on it. Texts and answers are left out: they are in the log of the rollouts."""
    own = [index for index, group in enumerate(batch.groups) if group.has_tokens and group.size]
    mine = {index: _tokens(batch.groups[index]) for index in own}
    tokens = {index: state for share in gather(mine) for index, state in share.items()}
    return {
        "iteration": batch.iteration,
        "prompts_per_update": batch.prompts_per_update,
        "wanted": batch.wanted,
        "responses_total": batch.responses_total,
        "summary": batch.metrics(),
        "updates_done": batch.updates_done,
        "groups": [{**_state(group), **tokens[index]} for index, group in enumerate(batch.groups)],
    }


def restored(state: dict[str, Any], prompts: dict[int, Prompt]) -> IterationBatch:
    """The batch that `pending_state` saved."""
    return IterationBatch(
        state["iteration"],
        state["prompts_per_update"],
        state["wanted"],
        groups=[_group(group, prompts) for group in state["groups"]],
        responses_total=state["responses_total"],
        figures=state["summary"],
        updates_done=state["updates_done"],
    )


def _tokens(group: Group) -> dict[str, Any]:
    """What only the rank holds that trains on the group."""
    return {
        "token_ids": [torch.tensor(rollout.token_ids, dtype=torch.int32) for rollout in group.rollouts],
        "log_probs": [torch.tensor(rollout.log_probs, dtype=torch.float32) for rollout in group.rollouts],
        "old_log_probs": group.old_log_probs,
    }


def _state(group: Group) -> dict[str, Any]:
    return {
        "prompt": group.prompt.index,
        "finish_reasons": [rollout.finish_reason for rollout in group.rollouts],
        "replies": [rollout.replies for rollout in group.rollouts],
        "rewards": group.rewards,
        "correct": group.correct,
        "positive": list(group.positive),
        "temperature": group.temperature,
        "seed": group.seed,
    }


def _group(state: dict[str, Any], prompts: dict[int, Prompt]) -> Group:
    replies = state.get("replies") or [()] * len(state["rewards"])  # a checkpoint from before there were any
    rollouts = [
        Rollout(array("i", ids.tolist()), array("f", log_probs.tolist()), reason, of_reply)
        for ids, log_probs, reason, of_reply in zip(
            *(state[name] for name in ("token_ids", "log_probs", "finish_reasons")), replies, strict=True
        )
    ]
    scores = [Score(reward, correct, None) for reward, correct in zip(state["rewards"], state["correct"], strict=True)]
    return Group(
        prompts[state["prompt"]],
        rollouts,
        [""] * len(rollouts),
        scores,
        state["temperature"],
        state["seed"],
        tuple(state["positive"]),
        outcome=Outcome.KEPT,
        old_log_probs=state["old_log_probs"],
    )
