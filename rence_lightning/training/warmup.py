"""The warm start: maximum likelihood of demonstrations, in the loop of `fit`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from rence_lightning.distributed import sum_over_ranks
from rence_lightning.errors import UserError
from rence_lightning.objectives import ResponseTensors, Totals
from rence_lightning.objectives.trust_region import TrustRegion
from rence_lightning.training.module import PolicyModule


@dataclass
class Warmup:
    """Settings of the command `warmup`, in place of `trainer.max_iterations` and of the optimizer's learning rate.

    Args:
        epochs: Number of passes over the demonstrations of the whole run; each is an iteration.
        learning_rate: Learning rate of the optimizer.
    """

    epochs: int = 3
    learning_rate: float = 2e-5

    def __post_init__(self) -> None:
        if self.epochs < 0 or not self.learning_rate >= 0:
            raise UserError(f"warmup: epochs ({self.epochs}) and learning_rate ({self.learning_rate}) must be >= 0")


class DemonstrationModule(PolicyModule):
    """A policy that learns demonstrations: the loss of an update is -log pi(y|x), the mean over its response tokens.

    The objective, trust region and reference policy of the settings are those of `fit`, and take no part.
    """

    learning_rate: float | None = None
    """Learning rate in place of that of the optimizer's settings; None for the latter."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.trust_region, self.reference = TrustRegion(kl_coef=0.0), None

    def _make_optimizer(self, parameters: Iterable[Tensor]) -> Optimizer:
        optimizer = super()._make_optimizer(parameters)
        for group in optimizer.param_groups if self.learning_rate is not None else ():
            group["lr"] = self.learning_rate
        return optimizer

    def _loss(self, responses: ResponseTensors, totals: Totals) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -responses.log_probs.masked_fill(~responses.mask, 0.0).sum() / totals.tokens
        return loss, {"loss": loss.detach(), "tokens": responses.mask.sum()}

    def on_evaluate(self) -> None:
        """Logs the loss on the demonstrations of the held-out problems, as `evaluation/loss`."""
        trainer: Any = self.trainer
        if trainer.datamodule.held_out:
            update = trainer.plan_update(trainer.datamodule.held_out, at_old_policy=False)
            with trainer.fabric.autocast():
                update.score(self, update.micro_batches)
            (loss,) = sum_over_ranks(float(update.figures(self).get("loss", 0.0)))
            self.log("evaluation/loss", loss)
