"""The trained policy as a Hugging Face folder, at the end of a run."""

from pathlib import Path

from rence_lightning.callbacks.base import Callback
from rence_lightning.module import PolicyModule
from rence_lightning.policy import Policy, export_policy
from rence_lightning.trainer import Trainer


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
        if trainer.is_global_zero:
            policy = module.policy
            export_policy(policy if isinstance(policy, Policy) else policy.module, self.folder)
        trainer.fabric.barrier()
