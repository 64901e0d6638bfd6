"""`python -m rence_lightning export`: a checkpoint's policy as a Hugging Face folder, on a CPU, without its YAML."""

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rence_lightning.errors import UserError
from rence_lightning.policy import Policy, export_policy
from rence_lightning.run.checkpoint import read_policy_weights
from rence_lightning.run.lineage import find_checkpoint


def export_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the folder.

    Raises:
        UserError: There is no such checkpoint, or the folder is in use.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rence_lightning export",
        description="Write a checkpoint's policy as a Hugging Face folder: safetensors, configuration and tokenizer.",
    )
    parser.add_argument("checkpoint", help="a checkpoint folder, or a run directory (its last)")
    parser.add_argument("folder", type=Path, help="is created")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: as it was trained")
    chosen = parser.parse_args(arguments)
    if chosen.folder.exists():
        raise UserError(f"export: {chosen.folder} exists; name a folder that does not")
    checkpoint = find_checkpoint(chosen.checkpoint, Path())
    policy = read_policy(checkpoint)
    if chosen.dtype is not None:
        policy.to(getattr(torch, chosen.dtype))
    export_policy(policy, chosen.folder)
    print(f"{checkpoint} written to {chosen.folder}")


def read_policy(checkpoint: Path) -> Policy:
    """The policy that a checkpoint holds, on the CPU.

    Raises:
        UserError: The checkpoint does not say what its weights are of.
    """
    hf = checkpoint / "hf"
    if not (hf / "config.json").exists():
        raise UserError(f"export: {checkpoint} holds no hf/config.json; give another checkpoint")
    config = AutoConfig.from_pretrained(hf)
    policy = Policy(AutoModelForCausalLM.from_config(config, dtype=config.dtype), AutoTokenizer.from_pretrained(hf))
    if (hf / "generation_config.json").exists():
        policy.model.generation_config = GenerationConfig.from_pretrained(hf)
    read_policy_weights(checkpoint, policy)
    return policy
