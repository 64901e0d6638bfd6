"""The policy of a checkpoint, read without the settings of its run."""

from pathlib import Path

from rence_lightning.errors import UserError
from rence_lightning.policy import Policy, load_policy
from rence_lightning.run.adapter_base import Base
from rence_lightning.run.checkpoint import checked_part, read_state


def read_policy(checkpoint: Path, base: str | None = None) -> Policy:
    """The policy that a checkpoint holds, on the CPU.

    Args:
        checkpoint: Folder of the checkpoint.
        base: Name of the model below the adapters (default: the recorded one).

    Raises:
        UserError: The checkpoint does not say which model its weights belong to, or the model below its adapters cannot
            be loaded or has other weights than in training.
    """
    from transformers import GenerationConfig

    recorded = Base.read(checkpoint)
    if recorded is None and base is not None:
        raise UserError(f"export: {checkpoint} holds a whole policy without adapters; remove --base")
    policy = _empty_policy(checkpoint) if recorded is None else _with_adapters(checkpoint, recorded, base)
    read_state(checkpoint, checked_part(checkpoint, policy))
    if (checkpoint / "hf" / "generation_config.json").exists():
        policy.model.generation_config = GenerationConfig.from_pretrained(checkpoint / "hf")
    return policy


def _empty_policy(checkpoint: Path) -> Policy:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    hf = checkpoint / "hf"
    if not (hf / "config.json").exists():
        raise UserError(f"export: {checkpoint} holds no hf/config.json; give another checkpoint")
    config = AutoConfig.from_pretrained(hf)
    return Policy(AutoModelForCausalLM.from_config(config, dtype=config.dtype), AutoTokenizer.from_pretrained(hf))


def _with_adapters(checkpoint: Path, recorded: Base, base: str | None) -> Policy:
    try:
        return load_policy(base or recorded.policy, recorded.dtype, lora=recorded.lora)
    except UserError as error:
        raise UserError(
            f"export: {checkpoint} holds adapters of {recorded.policy} alone, and that model is not there: {error}; "
            "say where it is now with --base"
        ) from error
