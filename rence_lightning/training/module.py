"""The LightningModule: the policy, its loss (objective and trust region) and its optimizer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rence_lightning.errors import UserError, calling
from rence_lightning.objectives import MultiLabelNCE, Objective, ResponseTensors, Totals
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.policy import Policy, TokenScores, load_policy
from rence_lightning.policy.load import DType
from rence_lightning.sampling.groups import Group
from rence_lightning.training.batching import MicroBatch, UpdateShare, constants_of, idle, rows_of, whole_groups


class PolicyModule(LightningModule):
    """A policy being trained.

    The loss of an update is the objective plus `kl_coef` times KL(pi_old || pi_theta), Eq. (1).

    Args:
        policy: Policy to train: a folder in the Hugging Face format, a hub name, `embedded:NAME` or
            `gguf:PACKAGE/FILE`.
        objective: Training loss (default: `MultiLabelNCE`).
        trust_region: KL penalty.
        optimizer: Optimizer of the policy's parameters.
        lr_scheduler: Learning rate scheduler, which is stepped after each update (default: a constant learning rate).
        dtype: Data type of the parameters; `float32` together with the trainer's `precision: bf16-mixed` keeps master
            weights in float32.
        gradient_checkpointing: Whether to recompute activations in the backward pass, which takes less memory and a
            third more time.
        attn_implementation: Name of the attention implementation in `transformers` (`sdpa`, `flash_attention_2`, ...);
            null lets `transformers` choose.
    """

    policy: Policy

    def __init__(
        self,
        policy: str,
        objective: Objective | None = None,
        trust_region: TrustRegion = TrustRegion(),  # noqa: B008  (copied below)
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6),
        lr_scheduler: LRSchedulerCallable | None = None,
        dtype: DType = "float32",
        gradient_checkpointing: bool = False,
        attn_implementation: str | None = None,
    ) -> None:
        super().__init__()
        self.policy_name = policy
        self.objective = objective if objective is not None else MultiLabelNCE()
        self.trust_region = replace(trust_region)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._dtype: DType = dtype
        self._gradient_checkpointing = gradient_checkpointing
        self._attn_implementation = attn_implementation

    def configure_model(self, empty: bool = False) -> None:
        """Loads the policy into main memory; the trainer moves it to the device, or shards it, afterwards.

        Args:
            empty: Whether to create the shapes of the parameters alone, because another rank sends the weights when the
                policy is sharded.
        """
        if "policy" not in self._modules:
            self.policy = load_policy(
                self.policy_name, self._dtype, self._gradient_checkpointing, self._attn_implementation, empty
            )

    def configure_optimizers(self) -> Any:
        """The optimizer of the (sharded) parameters, and the learning rate scheduler or None.

        Raises:
            UserError: The optimizer or the scheduler refuses one of its settings.
        """
        try:
            optimizer = self._optimizer(self.policy.parameters())
            scheduler = self._lr_scheduler(optimizer) if self._lr_scheduler is not None else None
        except ValueError as error:
            raise UserError(f"model: optimizer or lr_scheduler: {error}") from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "model: lr_scheduler ReduceLROnPlateau is not supported, because it needs a metric to monitor; choose "
                "another scheduler"
            )
        return optimizer, scheduler

    def forward(self, batch: MicroBatch, entropy: bool = False) -> TokenScores:
        """Log-probabilities `(rows, tokens)` of the response tokens of a micro-batch."""
        scores: TokenScores = self.policy(batch.input_ids, batch.response_mask, batch.temperature, entropy)
        return scores

    def training_step(self, batch: MicroBatch, totals: Totals) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """A micro-batch's share of the update's loss, and its shares of the figures to log."""
        log_probs = self(batch).log_probs
        if batch.coefficients is not None:
            return (log_probs * batch.coefficients).sum(), {}
        return self.loss(batch.responses(log_probs), totals)

    def loss(self, responses: ResponseTensors, totals: Totals) -> tuple[Tensor, dict[str, Tensor]]:
        """The given responses' share of the update's loss, Eq. (1), as a scalar, and of the figures to log."""
        objective = calling(self.objective, "loss()", lambda: self.objective.loss(responses, totals))
        kl = self.trust_region.kl(responses, totals)
        loss = objective + self.trust_region.kl_coef * kl
        with torch.no_grad():
            log_ratio = responses.sequence_log_ratio
            metrics = {
                "loss": loss,
                "objective": objective,
                "kl": kl,
                "positive_log_ratio": (log_ratio * responses.positive).sum() / max(totals.positives, 1),
                "negative_log_ratio": (log_ratio * ~responses.positive).sum() / max(totals.negatives, 1),
                **self.objective.metrics(responses, totals),
            }
        return loss, {name: value.detach() for name, value in metrics.items()}

    def micro_batches(self, share: UpdateShare) -> tuple[list[MicroBatch], list[dict[str, Tensor]]]:
        """The gradient passes of this rank's share of an update, and the figures of groups that are cut into pieces.

        A group over the token budget couples responses of several passes. Its coefficients dL/d log pi are computed
        first, from log-probabilities without a gradient; back-propagating them piece by piece gives the exact gradient.
        """
        passes: list[MicroBatch] = []
        figures: list[dict[str, Tensor]] = []
        scored = 0
        for plan in share.plans:
            groups = [share.groups[i] for i in plan.groups]
            if len(plan.pieces) == 1:
                passes.append(whole_groups(groups, self._pad_id, self.policy.compute_device))
                continue
            pieces = [rows_of(share.groups, piece, self._pad_id, self.policy.compute_device) for piece in plan.pieces]
            coefficients, metrics = self._coefficients(groups, pieces, share.totals)
            passes += [replace(piece, coefficients=c) for piece, c in zip(pieces, coefficients, strict=True)]
            figures.append(metrics)
            scored += len(pieces)
        for _ in range(share.scoring_passes - scored):
            with torch.no_grad():
                self(idle(self._pad_id, self.policy.compute_device))
        passes += [idle(self._pad_id, self.policy.compute_device) for _ in range(share.passes - len(passes))]
        return passes, figures

    def _coefficients(
        self, groups: list[Group], pieces: list[MicroBatch], totals: Totals
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """dL/d log pi of every response token of one group, split into its pieces `(rows, tokens)`."""
        constants = constants_of(groups, self.policy.compute_device)
        log_probs = torch.zeros_like(constants.old_log_probs)
        row = 0
        for piece in pieces:
            with torch.no_grad():
                scores = self(piece).log_probs
            log_probs[0, row : row + scores.shape[0], : scores.shape[1]] = scores
            row += scores.shape[0]
        log_probs.requires_grad_()
        with torch.enable_grad():
            loss, metrics = self.loss(replace(constants, log_probs=log_probs), totals)
            (gradient,) = torch.autograd.grad(loss, log_probs)
        rows = gradient[0].split([piece.input_ids.shape[0] for piece in pieces])
        widths = [int(piece.response_mask.sum(-1).max()) for piece in pieces]
        return [part[:, :width] for part, width in zip(rows, widths, strict=True)], metrics

    @torch.no_grad()
    def score(self, share: UpdateShare) -> Iterator[tuple[Group, int, Tensor, Tensor]]:
        """Log-probabilities and entropies of the responses of an update under the current policy.

        Yields:
            Group, index of the response, and the response's `(tokens,)` log-probabilities and entropies, on the CPU.
        """
        pieces = [piece for plan in share.plans for piece in plan.pieces]
        for piece in pieces:
            scores = self(rows_of(share.groups, piece, self._pad_id, self.policy.compute_device), entropy=True)
            assert scores.entropy is not None
            for (index, response), log_probs, entropy in zip(
                piece, scores.log_probs.cpu(), scores.entropy.cpu(), strict=True
            ):
                group = share.groups[index]
                length = len(group.rollouts[response].token_ids)
                yield group, response, log_probs[:length], entropy[:length]
        for _ in range(share.passes - len(pieces)):
            self(idle(self._pad_id, self.policy.compute_device), entropy=True)

    @property
    def _pad_id(self) -> int:
        pad_id = self.policy.tokenizer.pad_token_id
        return int(pad_id)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["kl_coef"] = self.trust_region.kl_coef

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trust_region.kl_coef = checkpoint["kl_coef"]
