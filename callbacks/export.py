"""Export of the trained policy in Hugging Face format, at the end of a run."""

from typing import cast

from lightning.fabric.wrappers import _FabricModule

from rence_lightning.callbacks.base import Callback
from rence_lightning.distributed import gather
from rence_lightning.policy import Policy, export_policy
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import full_state_dict, is_sharded
from rence_lightning.training.trainer import Trainer


class ExportPolicy(Callback):
    """Writes the trained policy to `hf/` in the run directory: safetensors, config and tokenizer, for `transformers`.

    Args:
        enabled: Whether to export the policy; it is in the checkpoints in any case.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if not self.enabled:
            return
        folder = trainer.run_dir / "hf"
        policy = cast(Policy, cast(_FabricModule, module.policy).module)
        weights = full_state_dict(policy.model) if is_sharded(policy) else None
        if trainer.is_global_zero:
            export_policy(policy, folder, weights)
        gather(None)  # the folder is written
        trainer.call("on_export", folder)
