"""The LightningModule: the policy, its loss (objective and trust region) and its optimizer."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric import Fabric
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rence_lightning.distributed import gather
from rence_lightning.errors import UserError, call_plugin, invalid_return, one_line
from rence_lightning.objectives import MultiLabelNCE, Objective, ResponseTensors, Totals
from rence_lightning.objectives.trust_region import ReferencePenalty, TrustRegion
from rence_lightning.policy import LoRA, PackedRow, Policy, TokenScores, compare_paths, load_policy
from rence_lightning.policy.adapters import without_adapters
from rence_lightning.policy.load import DType
from rence_lightning.training.strategy import FullyShardStrategy


class PolicyModule(pl.LightningModule):
    """A policy being trained.

    The loss of an update is the objective plus `kl_coef` times KL(pi_old || pi_theta), Eq. (1). With a `delta`, KL has
    the derivative of the penalty as its coefficient. A penalty to a reference policy can be added.

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
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self._dtype: DType = dtype
        self._gradient_checkpointing, self._attn_implementation = gradient_checkpointing, attn_implementation
        self._lora, self._compared = lora, False

    def configure_model(self, empty: bool = False) -> None:
        """Loads the policy into main memory; with `empty` the shapes alone, because another rank sends the weights."""
        if "policy" not in self._modules:
            settings = self._dtype, self._gradient_checkpointing, self._attn_implementation
            self.policy = load_policy(self.policy_name, *settings, empty, self._lora)

    def load(self, fabric: Fabric, training: bool) -> None:
        """Loads the policy, and a training run's reference policy, into main memory. Where the strategy shards them,
        rank 0 alone reads the weights, and the strategy distributes them from there."""
        sharded = isinstance(fabric.strategy, FullyShardStrategy)
        if fabric.is_global_zero or not sharded:
            self.configure_model()
        gather(None)  # if rank 0 cannot load it, the other ranks end here as well
        empty = sharded and not fabric.is_global_zero
        self.configure_model(empty)  # does nothing where the policy is loaded
        if training and self.reference is not None and self._lora is None and self.reference_policy is None:
            policy = load_policy(self.policy_name, self._dtype, False, self._attn_implementation, empty)
            self.reference_policy = policy.requires_grad_(False)

    def place(self, fabric: Fabric) -> None:
        """Moves the policies to the device, or shards them."""
        self.policy = fabric.setup_module(self.policy)  # type: ignore[assignment]
        if (reference := self.reference_policy) is not None:
            sharded = isinstance(fabric.strategy, FullyShardStrategy)
            # Replicas of a policy that is not trained exchange nothing: they need no wrapper.
            placed = fabric.setup_module(reference) if sharded else fabric.to_device(reference)
            self.reference_policy = placed  # type: ignore[assignment]

    def configure_optimizers(self, updates: int = 0) -> Any:
        """The optimizer of the (sharded) parameters that are trained, and the learning rate scheduler or None.

        Args:
            updates: Number of updates of the run, through which a schedule is tried; 0 tries none.

        Raises:
            UserError: The optimizer or the scheduler refuses one of its settings, or so many updates.
        """

        def make() -> tuple[Optimizer, Any]:
            optimizer = self._make_optimizer(each for each in self.policy.parameters() if each.requires_grad)
            return optimizer, self._lr_scheduler(optimizer) if self._lr_scheduler is not None else None

        try:
            optimizer, scheduler = make()
        except Exception as error:  # of any class: RuntimeError, ZeroDivisionError, TypeError
            raise UserError(f"model: optimizer or lr_scheduler: {one_line(error)}") from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "model: lr_scheduler ReduceLROnPlateau is not supported, because it needs a metric to monitor; choose "
                "another scheduler"
            )
        if scheduler is not None:
            _try_schedule(*make(), updates)
        return optimizer, scheduler

    def _make_optimizer(self, parameters: Iterable[Tensor]) -> Optimizer:
        return self._optimizer(parameters)

    def log_probs(
        self, row: PackedRow, temperature: float = 1.0, entropy: bool = False, reference: bool = False
    ) -> TokenScores:
        """Log-probabilities of the response tokens of a row, under the policy or the reference policy.

        Args:
            row: Prompts and responses.
            temperature: Sampling temperature of the responses, which divides the logits.
            entropy: Whether to return the entropy at each response token as well.
            reference: Whether to take the reference policy: the policy without its adapters, or a second copy.
        """
        if not self._compared and self.policy.packed:
            compare_paths(self.policy, row)
        self._compared = True
        scores: TokenScores
        if not reference:
            scores = self.policy(row, temperature, entropy)
        elif self.reference_policy is None:
            with without_adapters(self.policy):
                scores = self.policy(row, temperature, entropy)
        else:
            scores = self.reference_policy(row, temperature, entropy, self.policy.packed)
        return scores

    def loss(self, responses: list[ResponseTensors], totals: Totals) -> tuple[Tensor, dict[str, Tensor]]:
        """The given groups' part of the update's loss, Eq. (1), as a scalar, and of the figures to log.

        Args:
            responses: Whole groups, one element for each group size.
            totals: Counts over the whole update.
        """
        losses, figures = zip(*(self._loss(part, totals) for part in responses), strict=True)
        return sum(losses), {name: sum(each[name] for each in figures) for name in figures[0]}

    def _loss(self, responses: ResponseTensors, totals: Totals) -> tuple[Tensor, dict[str, Tensor]]:
        objective = call_plugin(self.objective, "loss()", lambda: self.objective.loss(responses, totals))
        scalar = isinstance(objective, Tensor) and objective.ndim == 0
        if not scalar or (torch.is_grad_enabled() and not objective.requires_grad):
            raise invalid_return(self.objective, "loss()", objective, "a scalar that depends on responses.log_probs")
        kl = self.trust_region.kl(responses, totals)
        loss, further = objective + self.trust_region.weight(totals.kl) * kl, {}
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

    def log(self, name: str, value: Any, sync_dist: bool = False) -> None:  # type: ignore[override]
        """Logs one figure; see `log_dict`."""
        self.log_dict({name: value}, sync_dist)

    def log_dict(self, dictionary: Mapping[str, Any], sync_dist: bool = False) -> None:  # type: ignore[override]
        """Sends figures to the loggers at once, in a row of their own, and to `trainer.callback_metrics`.

        Args:
            dictionary: Numbers, or tensors of one element, by name.
            sync_dist: Whether to take the mean over the ranks, for which every rank must make the call, instead of the
                values of rank zero.
        """
        figures = {name: float(value) for name, value in dictionary.items()}
        if sync_dist:
            shares = gather(figures)
            figures = {name: sum(share[name] for share in shares) / len(shares) for name in figures}
        trainer: Any = self.trainer
        trainer.log_metrics(figures, trainer.iteration)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["kl_coef"] = self.trust_region.kl_coef

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trust_region.kl_coef = checkpoint["kl_coef"]


def _try_schedule(optimizer: Optimizer, scheduler: Any, updates: int) -> None:
    """Takes a schedule through a run; a `UserError` says that it ends too early, a warning that its rate is 0."""
    still = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer takes no steps
        for update in range(1, updates + 1):
            if update > 1 and not any(group["lr"] for group in optimizer.param_groups):  # a warm-up may begin at 0
                still.append(update)
            try:
                scheduler.step()
                if bad := [group["lr"] for group in optimizer.param_groups if not 0 <= group["lr"] < math.inf]:
                    raise ValueError(f"the learning rate is {bad[0]}")
            except Exception as error:
                what = f"in update {update} of the run's {updates}: {one_line(error)}"
                raise UserError(f"model: lr_scheduler: {what}; give it as many steps as updates, or fix it") from error
    if still:
        which = f"{len(still)} of the run's {updates} updates, first in update {still[0]}"
        advice = "they change nothing; give it as many steps as updates"
        warnings.warn(f"model.lr_scheduler: the learning rate is 0 in {which}; {advice}", stacklevel=2)
