"""A limit on the number of rollouts, for comparing methods that sample different numbers in an iteration."""

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.errors import UserError
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class RolloutBudget(Callback):
    """Ends training after the iteration in which the budget is used up; responses of evaluations are not counted.

    Args:
        responses: Number of responses that training may sample. The last iteration is completed, so that a run can
            sample more; `rollouts/responses_total` in metrics.csv is the actual number. Responses that were begun after
            the last one that a batch needed are not counted, because their number depends on timing.
    """

    def __init__(self, responses: int) -> None:
        if responses < 1:
            raise UserError(f"RolloutBudget: responses is {responses}; it must be >= 1")
        self.responses = responses

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.datamodule.responses_total >= self.responses:
            trainer.should_stop = True
