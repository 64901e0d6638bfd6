"""The old-policy snapshot: log pi_old of everything an iteration trains on, before its first update."""

from typing import Literal

import torch

from rence_lightning.callbacks.base import Callback
from rence_lightning.datamodule import IterationBatch
from rence_lightning.groups import log_prob_tensors
from rence_lightning.micro_batches import share_of_update
from rence_lightning.module import PolicyModule
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
        entropy = difference = tokens = 0.0
        for groups in batch.updates:
            share = share_of_update(groups, trainer.micro_batch_tokens, trainer.global_rank, trainer.world_size)
            for group in share.groups:
                group.old_log_probs = [torch.empty(0)] * len(group.rollouts)  # filled in the order of the passes
            with trainer.fabric.autocast():
                for group, response, log_probs, entropies in module.score(share):
                    group.old_log_probs[response] = log_probs
                    entropy += float(entropies.sum())
                    difference += float((log_probs - log_prob_tensors(group)[response]).abs().sum())
                    tokens += len(log_probs)
        entropy, difference, tokens = trainer.sum_over_ranks(entropy, difference, tokens)
        if tokens:
            trainer.log_metrics(
                {"rollouts/entropy": entropy / tokens, "rollouts/engine_log_prob_difference": difference / tokens}
            )
