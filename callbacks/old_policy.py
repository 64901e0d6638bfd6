"""The old-policy snapshot: log pi_old of everything an iteration trains on, before its first update."""

from typing import Literal

import torch

from rence_lightning.callbacks.base import Callback
from rence_lightning.datamodule import IterationBatch
from rence_lightning.errors import UserError
from rence_lightning.groups import engine_log_probs
from rence_lightning.micro_batches import share_of_update
from rence_lightning.module import PolicyModule
from rence_lightning.trainer import Trainer


class OldPolicySnapshot(Callback):
    """Anchors the scores and the trust region to pi_old (Algorithm 1, line 2).

    No second copy of the model is needed: pi_old enters the loss only through the log-probabilities of the sampled
    tokens, and those are taken before the policy moves.

    Args:
        source: `recompute`: a forward pass of the trainer's own model. `engine`: the log-probabilities that the rollout
            engine reported, which saves the pass (and logs no entropy); only in float32, where the two agree.
    """

    def __init__(self, source: Literal["recompute", "engine"] = "recompute") -> None:
        self.source = source

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        dtype = module.policy.model.dtype
        if self.source == "engine" and (trainer.precision != "32-true" or dtype != torch.float32):
            raise UserError(
                f"old_policy: source is engine, but with precision {trainer.precision} and parameters in {dtype} the "
                "engine's log-probabilities are not the trainer's; set source to recompute"
            )

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        if self.source == "engine":
            for group in batch.groups:
                group.old_log_probs = [engine_log_probs(rollout) for rollout in group.rollouts]
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
                    difference += float((log_probs - engine_log_probs(group.rollouts[response])).abs().sum())
                    tokens += len(log_probs)
        entropy, difference, tokens = trainer.sum_over_ranks(entropy, difference, tokens)
        if tokens:
            batch.figures["entropy"] = entropy / tokens
            batch.figures["engine_log_prob_difference"] = difference / tokens
