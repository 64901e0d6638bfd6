"""Export of the trained policy in Hugging Face format, with a model card, at the end of a run."""

import warnings
from pathlib import Path
from typing import Literal, cast

import torch
from lightning.fabric.wrappers import _FabricModule

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.distributed import on_rank_zero
from rence_lightning.errors import UserError, one_line
from rence_lightning.evaluation import read_evaluations
from rence_lightning.policy import Policy, export_policy
from rence_lightning.policy.load import DType
from rence_lightning.report.model_card import write_model_card
from rence_lightning.run.directory import SavedAt
from rence_lightning.run.saved_policy import read_policy
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import full_state_dict, is_sharded
from rence_lightning.training.trainer import Trainer


class ExportPolicy(Callback):
    """Writes the trained policy to `hf/` in the run directory: safetensors, config, tokenizer and model card.

    Args:
        enabled: Whether to export the policy; it is in the checkpoints in any case.
        which: Policy to export: `last`, the one at the end of training, or `best`, the checkpoint with the highest
            average over the benchmarks.
        dtype: Data type of the exported parameters; null for the one in which the policy was trained.
    """

    def __init__(
        self, enabled: bool = True, which: Literal["last", "best"] = "last", dtype: DType | None = None
    ) -> None:
        self.enabled = enabled
        self.which = which
        self.dtype = dtype

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """Refuses `best` in a run that has not evaluated its policy before the first iteration."""
        evaluations = trainer.run_dir / "evaluations.jsonl"
        if self.enabled and self.which == "best" and not on_rank_zero(lambda: read_evaluations(evaluations)):
            raise UserError(
                "export: which is best, but the run does not evaluate the policy; set evaluation.benchmarks and "
                "evaluation.every, or export.which: last"
            )

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if not self.enabled:
            return
        folder, best = trainer.run_dir / "hf", on_rank_zero(lambda: self._best(trainer))
        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        if best is not None:
            on_rank_zero(lambda: export_policy(read_policy(best), folder, dtype=dtype))
        else:
            policy = cast(Policy, cast(_FabricModule, module.policy).module)
            weights = full_state_dict(policy.model) if is_sharded(policy) else None
            on_rank_zero(lambda: export_policy(policy, folder, weights, dtype))
        if trainer.is_global_zero:
            try:
                saved = SavedAt.read(best) if best is not None else trainer.checkpoints.saved_at
                write_model_card(folder, trainer.run_dir, saved)
            except Exception as error:  # the policy is exported: a card is no reason to lose the end of the run
                warnings.warn(f"the model card was not written ({one_line(error)})", stacklevel=2)
            use = "its README.md says how to use it with transformers alone"
            print(f"trained policy  {folder}  ({use}; publish it with: hf upload USER/NAME {folder})")
        trainer.call("on_export", folder)

    def _best(self, trainer: Trainer) -> Path | None:
        """The checkpoint to export; None for the policy in memory."""
        if self.which == "last":
            return None
        best = trainer.session.run.checkpoint("best")
        if best is None:
            warnings.warn(
                f"export: {trainer.run_dir} has no best checkpoint (checkpoint.every is 0, nothing was evaluated after "
                "training began, or the best is in the run that this one branched from); hf/ is the last policy",
                stacklevel=2,
            )
        return best
