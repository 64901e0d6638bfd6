"""`python -m rence_lightning export`: a checkpoint's policy as a Hugging Face folder, on a CPU, without its YAML."""

from __future__ import annotations

from pathlib import Path

from rence_lightning.cli.arguments import CommandParser, hide_bars_in_files
from rence_lightning.errors import UserError
from rence_lightning.run.lineage import find_checkpoint


def export_command(arguments: list[str]) -> None:
    """Parses the command's arguments and writes the folder."""
    parser = CommandParser(
        "export",
        "Write a checkpoint's policy as a Hugging Face folder: safetensors, configuration and tokenizer.",
        [
            "export runs/arithmetic/checkpoints/best policy",
            "export runs/arithmetic policy --dtype bfloat16",
            "export runs/arithmetic adapter --adapter",
        ],
    )
    parser.add_argument("checkpoint", help="a checkpoint folder, or a run directory (its last checkpoint)")
    parser.add_argument("folder", type=Path, help="the folder to create")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="the type of the parameters (default: the one in which the policy was trained, or the weights below its "
        "adapters)",
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write the adapters alone, as a folder that peft loads, instead of the policy with the adapters merged in",
    )
    parser.add_argument(
        "--base",
        help="where the model below the adapters is now (default: where it was in training): a folder or a hub name",
    )
    chosen = parser.parse_args(arguments)
    if chosen.adapter and chosen.dtype is not None:
        raise UserError("export: adapters are written in float32, as they were trained; remove --dtype or --adapter")
    if chosen.folder.exists():
        raise UserError(f"export: {chosen.folder} exists; name a folder that does not")
    checkpoint = find_checkpoint(chosen.checkpoint, Path())
    import torch

    from rence_lightning.policy import export_adapters, export_policy
    from rence_lightning.report.model_card import describe_checkpoint
    from rence_lightning.run.saved_policy import read_policy

    hide_bars_in_files()
    policy = read_policy(checkpoint, chosen.base)
    if chosen.adapter:
        export_adapters(policy, chosen.folder)
    else:
        export_policy(policy, chosen.folder, dtype=None if chosen.dtype is None else getattr(torch, chosen.dtype))
    print(f"{checkpoint} written to {chosen.folder}; publish it with: hf upload USER/NAME {chosen.folder}")
    if describe_checkpoint(chosen.folder, checkpoint) is None:
        print(f"without a model card, because {checkpoint} is a copy outside of its run")
