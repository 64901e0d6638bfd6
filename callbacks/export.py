"""The trained policy as a Hugging Face folder, at the end of a run."""

from pathlib import Path
from typing import cast

from lightning.fabric.wrappers import _FabricModule

from rence_lightning.callbacks.base import Callback
from rence_lightning.policy import Policy, export_policy
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import full_state_dict, is_sharded
from rence_lightning.training.trainer import Trainer


class ExportPolicy(Callback):
    """Writes `hf/` in the run directory: safetensors, config and tokenizer, for plain `transformers`.

    Args:
        enabled: False leaves the policy in the checkpoints only.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.folder: Path | None = None

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if not self.enabled:
            return
        self.folder = trainer.run_dir / "hf"
        policy = cast(Policy, cast(_FabricModule, module.policy).module)
        weights = full_state_dict(policy.model) if is_sharded(policy) else None
        if trainer.is_global_zero:
            export_policy(policy, self.folder, weights)
        trainer.fabric.barrier()
