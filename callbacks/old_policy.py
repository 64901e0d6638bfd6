"""The old-policy snapshot: log pi_old of everything an iteration trains on, before its first update."""

from typing import Literal

import torch

from rence_lightning.callbacks.base import Callback
from rence_lightning.datamodule import IterationBatch
from rence_lightning.groups import Group, log_prob_tensors
from rence_lightning.micro_batches import UpdateShare, share_of_update
from rence_lightning.module import PolicyModule
from rence_lightning.policy.packing import plan_micro_batches
from rence_lightning.trainer import Trainer


class OldPolicySnapshot(Callback):
    """Anchors the scores and the trust region to pi_old (Algorithm 1, line 2).

    No second copy of the model is needed: pi_old enters the loss only through the log-probabilities of the sampled
    tokens, and those are taken before the policy moves.

    Args:
        source: `recompute`: a forward pass of the trainer's own model. `engine`: the log-probabilities that the rollout
            engine reported, which saves the pass; sound only where engine and trainer agree (not in bfloat16).
    """

    def __init__(self, source: Literal["recompute", "engine"] = "recompute") -> None:
        self.source = source

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        if self.source == "engine":
            for group in batch.groups:
                group.old_log_probs = log_prob_tensors(group)
            return
        shares = [
            share_of_update(groups, trainer.micro_batch_tokens, trainer.global_rank, trainer.world_size)
            for groups in batch.updates
        ]
        groups = [group for share in shares for group in share.groups]
        self._recompute(trainer, module, groups, self._passes(trainer, shares))

    def _recompute(self, trainer: Trainer, module: PolicyModule, groups: list[Group], passes: int) -> None:
        for group in groups:
            group.old_log_probs = [torch.empty(0)] * len(group.rollouts)  # filled below, in the order of the passes
        entropy = difference = tokens = 0.0
        with trainer.fabric.autocast():
            for group, response, log_probs, entropies in module.score(groups, trainer.micro_batch_tokens, passes):
                group.old_log_probs[response] = log_probs
                engine = log_prob_tensors(group)[response]
                entropy += float(entropies.sum())
                difference += float((log_probs - engine).abs().sum())
                tokens += len(log_probs)
        entropy, difference, tokens = trainer.sum_over_ranks(entropy, difference, tokens)
        if tokens:
            trainer.log_metrics(
                {"rollouts/entropy": entropy / tokens, "rollouts/engine_log_prob_difference": difference / tokens}
            )

    def _passes(self, trainer: Trainer, shares: list[UpdateShare]) -> int:
        lengths = [group.sequence_lengths for share in shares for group in share.groups]
        plans = plan_micro_batches(lengths, trainer.micro_batch_tokens)
        return int(trainer.max_over_ranks(sum(len(plan.pieces) for plan in plans)))
