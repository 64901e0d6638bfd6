"""`python -m rence_lightning export`: a checkpoint's policy as a Hugging Face folder, on a CPU, without its YAML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.errors import UserError
from rence_lightning.run.lineage import find_checkpoint

if TYPE_CHECKING:
    from rence_lightning.policy import Policy


def export_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the folder.

    Raises:
        UserError: The arguments are wrong, there is no such checkpoint, or the folder is in use.
    """
    parser = CommandParser(
        "export",
        "Write a checkpoint's policy as a Hugging Face folder: safetensors, configuration and tokenizer.",
        ["export runs/arithmetic/checkpoints/best policy", "export runs/arithmetic policy --dtype bfloat16"],
    )
    parser.add_argument("checkpoint", help="a checkpoint folder, or a run directory (its last checkpoint)")
    parser.add_argument("folder", type=Path, help="the folder to create")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="the type of the parameters (default: the one in which the policy was trained)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.folder.exists():
        raise UserError(f"export: {chosen.folder} exists; name a folder that does not")
    checkpoint = find_checkpoint(chosen.checkpoint, Path())
    import torch

    from rence_lightning.cli.output import hide_bars_in_files
    from rence_lightning.policy import export_policy

    hide_bars_in_files()
    policy = read_policy(checkpoint)
    if chosen.dtype is not None:
        policy.to(getattr(torch, chosen.dtype))
    export_policy(policy, chosen.folder)
    print(f"{checkpoint} written to {chosen.folder}")


def read_policy(checkpoint: Path) -> Policy:
    """The policy that a checkpoint holds, on the CPU.

    Raises:
        UserError: The checkpoint does not say which model its weights belong to.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from rence_lightning.policy import Policy
    from rence_lightning.run.checkpoint import read_policy_weights

    hf = checkpoint / "hf"
    if not (hf / "config.json").exists():
        raise UserError(f"export: {checkpoint} holds no hf/config.json; give another checkpoint")
    config = AutoConfig.from_pretrained(hf)
    policy = Policy(AutoModelForCausalLM.from_config(config, dtype=config.dtype), AutoTokenizer.from_pretrained(hf))
    if (hf / "generation_config.json").exists():
        policy.model.generation_config = GenerationConfig.from_pretrained(hf)
    read_policy_weights(checkpoint, policy)
    return policy
