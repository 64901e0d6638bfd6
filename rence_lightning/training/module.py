"""The LightningModule: the policy, its loss (objective and trust region) and its optimizer."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rence_lightning.distributed import sum_over_ranks
from rence_lightning.errors import UserError, call_plugin, invalid_return
from rence_lightning.objectives import MultiLabelNCE, Objective, ResponseTensors, Totals
from rence_lightning.objectives.trust_region import ReferencePenalty, TrustRegion
from rence_lightning.policy import LoRA, PackedRow, Policy, TokenScores, compare_paths, load_policy, warn_of_padding
from rence_lightning.policy.adapters import without_adapters
from rence_lightning.policy.load import DType
from rence_lightning.training.batching import Row
from rence_lightning.training.own_figures import LogsFigures
from rence_lightning.training.update_share import UpdateShare, idle_row


class PolicyModule(LogsFigures):
    """A policy being trained.

    The loss of an update is the objective plus `kl_coef` times KL(pi_old || pi_theta), Eq. (1). With a limit of the KL
    divergence, KL has the derivative of the penalty as its coefficient. A penalty to a reference policy can be added.

    Args:
        policy: Policy to train: a folder in the Hugging Face format, a hub name, `embedded:NAME` or
            `gguf:PACKAGE/FILE`.
        objective: Training loss (default: `MultiLabelNCE`).
        trust_region: KL penalty.
        optimizer: Optimizer of the policy's parameters, or of the adapters alone.
        lr_scheduler: Learning rate scheduler, which is stepped after each update (default: a constant learning rate).
        dtype: Data type of the parameters; `float32` together with the trainer's `precision: bf16-mixed` keeps master
            weights in float32. With adapters it is that of the frozen weights, and the adapters are in float32.
        gradient_checkpointing: Whether to recompute activations in the backward pass, which takes less memory and a
            third more time.
        attn_implementation: Name of the attention implementation in `transformers` (`sdpa`, `flash_attention_2`, ...)
            with which each response is computed as a padded row; null computes packed rows, which hold each prompt once
            and no padding, wherever the model has full causal attention.
        lora: Low-rank adapters that are trained in place of the weights; null trains all weights.
        reference: KL penalty to the policy that the run started from, which takes a further forward pass for each
            update and, without adapters, a second copy of the weights, sharded like the first; null for no penalty.
    """

    policy: Policy
    reference_policy: Policy | None

    def __init__(
        self,
        policy: str,
        objective: Objective | None = None,
        trust_region: TrustRegion = TrustRegion(),  # noqa: B008  (copied below)
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
        dtype: DType = "float32",
        gradient_checkpointing: bool = False,
        attn_implementation: str | None = None,
        lora: LoRA | None = None,
        reference: ReferencePenalty | None = None,
    ) -> None:
        super().__init__()
        self.policy_name = policy
        self.objective = objective if objective is not None else MultiLabelNCE()
        self.trust_region = replace(trust_region)
        self.reference = reference
        self.reference_policy = None
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._dtype: DType = dtype
        self._gradient_checkpointing = gradient_checkpointing
        self._attn_implementation = attn_implementation
        self._lora = lora
        self._compared = False

    def configure_model(self, empty: bool = False) -> None:
        """Loads the policy into main memory; the trainer moves it to the device, or shards it, afterwards.

        Args:
            empty: Whether to create the shapes of the parameters alone, because another rank sends the weights when the
                policy is sharded.
        """
        if "policy" not in self._modules:
            self.policy = load_policy(
                self.policy_name,
                self._dtype,
                self._gradient_checkpointing,
                self._attn_implementation,
                empty,
                self._lora,
            )

    def configure_reference(self, empty: bool = False) -> None:
        """Loads the reference policy into main memory, where one is needed besides the policy.

        Args:
            empty: Whether to create the shapes of the parameters alone, as in `configure_model`.
        """
        if self.reference is not None and self._lora is None and self.reference_policy is None:
            policy = load_policy(self.policy_name, self._dtype, False, self._attn_implementation, empty)
            self.reference_policy = policy.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """The optimizer of the (sharded) parameters that are trained, and the learning rate scheduler or None.

        Raises:
            UserError: The optimizer or the scheduler refuses one of its settings.
        """
        try:
            optimizer = self._optimizer(parameter for parameter in self.policy.parameters() if parameter.requires_grad)
            scheduler = self._lr_scheduler(optimizer) if self._lr_scheduler is not None else None
        except ValueError as error:
            raise UserError(f"model: optimizer or lr_scheduler: {error}") from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "model: lr_scheduler ReduceLROnPlateau is not supported, because it needs a metric to monitor; choose "
                "another scheduler"
            )
        return optimizer, scheduler

    def forward(self, row: PackedRow, temperature: float = 1.0, entropy: bool = False) -> TokenScores:
        """Scores of the response tokens of a row."""
        if not self._compared:
            warn_of_padding(self.policy, row.input_ids.device.type)
            if self.policy.packed:
                compare_paths(self.policy, row)
        self._compared = True
        scores: TokenScores = self.policy(row, temperature, entropy)
        return scores

    def passes(self, share: UpdateShare) -> list[Row]:
        """The rows of this rank's gradient passes in an update, after the scoring of groups that are cut.

        Where the trust region has a limit, all groups are scored, because the penalty depends on the KL of the update.
        Every rank gets as many rows as any of them; an idle pass is an empty row.
        """
        if self.reference is not None:
            self._score_reference(share)
        limited = self.trust_region.limit is not None and not share.at_old_policy
        passes, rows = (share.passes, share.rows) if limited else (share.scoring_passes, share.scoring_rows)
        for row in _up_to(passes, rows):
            with torch.no_grad():
                scores = self._scores(row, share)
            share.record(row, scores)
        share.kl_weight = self.trust_region.weight(self._kl(share) if limited else 0.0)
        return _up_to(share.passes, share.rows)

    @torch.no_grad()
    def _score_reference(self, share: UpdateShare) -> None:
        """Takes the log-probabilities of all responses of an update under the reference policy."""
        policy = self.reference_policy
        with without_adapters(self.policy) if policy is None else nullcontext():
            for row in _up_to(share.passes, share.rows):
                share.record_reference(row, self._scores(row, share, policy=policy))

    def _kl(self, share: UpdateShare) -> float:
        """The KL divergence of the whole update, from the current log-probabilities of all groups."""
        parts = share.all_tensors() if share.groups else []
        (kl,) = sum_over_ranks(sum(float(self.trust_region.kl(part, share.totals)) for part in parts))
        return kl

    def training_step(self, row: Row, share: UpdateShare) -> Tensor:
        """A scalar whose gradient is the row's part of the update's gradient; where all groups are whole, it is the
        row's part of the loss. In the first update of an iteration, the row's log-probabilities become those of pi_old.
        """
        takes_old = share.at_old_policy and not share.has_old_log_probs
        scores = self._scores(row, share, entropy=takes_old)
        share.record(row, scores)
        if not row:
            return scores.log_probs.sum() * 0.0
        return self.loss(share.tensors(row, scores.log_probs), share)[0]

    @torch.no_grad()
    def end_passes(self, share: UpdateShare) -> dict[str, Tensor]:
        """The share's part of the update's loss and of the figures to log, after all of its passes."""
        if not share.groups:
            return {}
        if share.at_old_policy and not share.has_old_log_probs:
            share.current_is_old()
        return self.loss(share.all_tensors(), share)[1]

    def loss(self, parts: list[ResponseTensors], share: UpdateShare) -> tuple[Tensor, dict[str, Tensor]]:
        """The given groups' share of the update's loss, Eq. (1), as a scalar, and of the figures to log."""
        losses, figures = zip(*(self._loss(part, share.totals, share.kl_weight) for part in parts), strict=True)
        return sum(losses), {name: sum(each[name] for each in figures) for name in figures[0]}

    def _loss(self, responses: ResponseTensors, totals: Totals, kl_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        objective = call_plugin(self.objective, "loss()", lambda: self.objective.loss(responses, totals))
        scalar = isinstance(objective, Tensor) and objective.ndim == 0
        if not scalar or (torch.is_grad_enabled() and not objective.requires_grad):
            raise invalid_return(self.objective, "loss()", objective, "a scalar that depends on responses.log_probs")
        kl = self.trust_region.kl(responses, totals)
        loss, further = objective + kl_weight * kl, {}
        if self.reference is not None:
            further["reference_kl"] = self.reference.kl(responses, totals)
            loss = loss + self.reference.kl_coef * further["reference_kl"]
        with torch.no_grad():
            log_ratio = responses.sequence_log_ratio
            metrics = {
                "loss": loss,
                "objective": objective,
                "kl": kl,
                "positive_log_ratio": (log_ratio * responses.positive).sum() / max(totals.positives, 1),
                "negative_log_ratio": (log_ratio * ~responses.positive).sum() / max(totals.negatives, 1),
                **further,
                **self.objective.metrics(responses, totals),
            }
        return loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def score(self, share: UpdateShare) -> None:
        """Takes the log-probabilities of all responses of an update, under the current policy, as those of pi_old."""
        for row in _up_to(share.passes, share.rows):
            share.record(row, self._scores(row, share, entropy=True))
        share.current_is_old()

    def _scores(self, row: Row, share: UpdateShare, entropy: bool = False, policy: Policy | None = None) -> TokenScores:
        """Scores of a row under the policy, or under another one."""
        device, temperature = self.policy.compute_device, 1.0
        if row:
            packed, temperature = PackedRow(share.segments(row), device), share.groups[0].temperature
        else:
            packed = idle_row(int(self.policy.tokenizer.pad_token_id), device)
        if policy is None:
            return self.forward(packed, temperature, entropy)
        scores: TokenScores = policy(packed, temperature, entropy, self.policy.packed)
        return scores

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["kl_coef"] = self.trust_region.kl_coef

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trust_region.kl_coef = checkpoint["kl_coef"]


def _up_to(passes: int, rows: list[Row]) -> list[Row]:
    """The rows, and empty ones up to the number of passes that every rank makes."""
    return rows + [[] for _ in range(passes - len(rows))]
