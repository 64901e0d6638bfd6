"""The old-policy snapshot: log pi_old of all responses that an iteration trains on, taken before its first update."""

from typing import Literal

import torch

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.distributed import max_over_ranks, sum_over_ranks
from rence_lightning.errors import EngineMismatchError, UserError
from rence_lightning.objectives.trust_region import kl_estimate
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import engine_log_probs
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.update import Update


class OldPolicySnapshot(Callback):
    """Takes the log-probabilities of pi_old for the scores and the trust region (Algorithm 1, line 2).

    No second copy of the model is needed, because pi_old enters the loss only through the log-probabilities of the
    sampled tokens, and those are taken before the policy is updated. Their difference from the log-probabilities that
    the rollout engine reported is logged as `mismatch_abs` (mean over tokens of the absolute difference),
    `mismatch_abs_max` and `mismatch_kl` (KL(engine || trainer) per token, in nats). Summed over a response, as the
    scores are, it is `mismatch_kl_response` (`mismatch_kl` times the mean length), and with an objective that has a
    beta, `engine_score_offset` is beta times that: the mean by which the scores would be off if pi_old were the engine.

    Args:
        source: Source of the log-probabilities of pi_old: `recompute` takes the trainer's model, in the passes of the
            first update themselves and in a forward pass before it for the groups of later updates.
            `engine` takes those that the rollout engine reported, which saves the forward pass (and logs no entropy);
            it is possible in float32 on a CPU only, where the two agree.
        max_mismatch: Largest mean absolute difference per token between the log-probabilities of engine and trainer; a
            larger one stops the run, because the engine then has other weights than the policy. The two agree to about
            1e-5 in float32 and 1e-2 in bfloat16. Null disables the check.
    """

    sets_old_log_probs = True
    """Declares to the trainer that this callback sets the log-probabilities of pi_old."""

    def __init__(self, source: Literal["recompute", "engine"] = "recompute", max_mismatch: float | None = None) -> None:
        if max_mismatch is not None and (max_mismatch <= 0 or source == "engine"):
            raise UserError(
                f"old_policy: max_mismatch is {max_mismatch} and source is {source}; max_mismatch must be > 0 and "
                "needs source: recompute"
            )
        self.source = source
        self.max_mismatch = max_mismatch

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        if self.source == "engine" and (fault := _difference(trainer, module)):
            raise UserError(
                f"old_policy: source is engine, but {fault}, so that the engine's log-probabilities differ from the "
                "trainer's; set source to recompute"
            )

    def on_updates_start(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self._sums = dict.fromkeys(("difference", "kl", "entropy", "tokens", "responses"), 0.0)
        self._largest = 0.0
        if self.source == "engine":
            for group in batch.groups:
                group.old_log_probs = [engine_log_probs(rollout) for rollout in group.rollouts]
            return
        for groups in batch.updates[1:]:  # the passes of the first update are those of pi_old
            update = trainer.plan_update(groups, at_old_policy=True)
            with trainer.fabric.autocast():
                update.score(module, update.micro_batches, entropy=True)
            self._keep(update)

    def on_passes_end(self, trainer: Trainer, module: PolicyModule, update: Update) -> dict[str, float] | None:
        """Takes the log-probabilities that the passes of the first update recorded, before the policy is changed."""
        if self.source == "engine" or not update.at_old_policy:
            return None
        self._keep(update)
        return self._figures(trainer.iteration, getattr(module.objective, "beta", None))

    def _keep(self, update: Update) -> None:
        """Keeps the log-probabilities of pi_old, and adds their difference from the engine's to this rank's sums."""
        keep_as_old(update)
        sums = self._sums
        sums["entropy"] += update.entropy
        for group in update.groups:
            for trainer, rollout in zip(group.old_log_probs, group.rollouts, strict=True):
                log_ratio = trainer.double() - engine_log_probs(rollout).double()
                sums["difference"] += float(log_ratio.abs().sum())
                sums["kl"] += float(kl_estimate(log_ratio).sum())  # KL(engine || trainer), by k3
                sums["tokens"] += len(log_ratio)
                sums["responses"] += 1
                self._largest = max(self._largest, float(log_ratio.abs().max()))

    def _figures(self, iteration: int, beta: float | None) -> dict[str, float]:
        """The figures of the iteration, over all ranks.

        Raises:
            EngineMismatchError: Engine and trainer differ by more than `max_mismatch`.
        """
        difference, kl, entropy, tokens, responses = sum_over_ranks(*self._sums.values())
        largest = max_over_ranks(self._largest)
        if self.max_mismatch is not None and not difference / tokens <= self.max_mismatch:
            raise EngineMismatchError(
                f"iteration {iteration}: the engine's log-probabilities differ from the trainer's by "
                f"{difference / tokens:.1e} per token (at most {largest:.1e}), more than old_policy.max_mismatch "
                f"{self.max_mismatch:g}: the engine samples from other weights or in another precision, or float16 "
                "overflows (nan); check the engine's dtype, or raise old_policy.max_mismatch"
            )
        figures = {
            "entropy": entropy / tokens,
            "mismatch_abs": difference / tokens,
            "mismatch_abs_max": largest,
            "mismatch_kl": kl / tokens,
            "mismatch_kl_response": kl / responses,
        }
        return figures if beta is None else {**figures, "engine_score_offset": beta * kl / responses}


def keep_as_old(update: Update) -> None:
    """Makes the log-probabilities that the passes of an update have recorded those of pi_old."""
    for group, log_probs in zip(update.groups, update.log_probs, strict=True):
        # Clones, because a view would keep those of a whole pass in memory, and in checkpoints.
        group.old_log_probs = [values.cpu().clone() for values in log_probs if values is not None]


def _difference(trainer: Trainer, module: PolicyModule) -> str:
    """The reason why the engine's log-probabilities are not those of the trainer; empty if they are."""
    dtype = module.policy.model.dtype
    if trainer.precision != "32-true" or dtype != torch.float32:
        return f"the trainer computes with precision {trainer.precision} and parameters in {dtype}"
    if trainer.fabric.device.type != "cpu":
        return "an engine on a GPU may compute float32 attention in TF32, as vLLM's does"
    data = trainer.datamodule
    if (engine_dtype := getattr(data.engine, "dtype", None)) not in (None, "float32"):
        return f"the engine computes in {engine_dtype}"
    return f"the engine samples with top_p {data.sampling.top_p}" if data.sampling.top_p < 1 else ""
