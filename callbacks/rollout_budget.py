"""A budget of rollouts, for comparing methods that sample differently much in an iteration."""

from rence_lightning.callbacks.base import Callback
from rence_lightning.errors import UserError
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class RolloutBudget(Callback):
    """Ends training with the iteration in which the budget is used up; responses of evaluations do not count.

    Args:
        responses: The budget. The last iteration is finished, so a run can sample somewhat more:
            `rollouts/responses_total` in metrics.csv says how many.
    """

    def __init__(self, responses: int) -> None:
        if responses < 1:
            raise UserError(f"RolloutBudget: responses is {responses}; it must be >= 1")
        self.responses = responses

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.datamodule.responses_total >= self.responses:
            trainer.should_stop = True
