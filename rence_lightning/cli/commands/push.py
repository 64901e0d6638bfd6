"""`python -m rence_lightning push`: an exported policy to the Hugging Face hub."""

import json
from pathlib import Path

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.errors import UserError


def push_command(arguments: list[str]) -> None:
    """Parses the command's arguments and uploads the folder.

    Raises:
        UserError: The arguments are wrong, the path holds no exported policy, or the upload is not possible or failed.
    """
    parser = CommandParser(
        "push",
        "Upload an exported policy, with its model card, to a repository on the Hugging Face hub.\n"
        "The token is that of HF_TOKEN or of `hf auth login`.",
        ["push runs/arithmetic user/name", "push FOLDER user/name --public"],
    )
    parser.add_argument("path", type=Path, help="a run directory (its hf/), or a folder that `export` has written")
    parser.add_argument("repository", help="the repository as user/name; it is created if it does not exist")
    parser.add_argument(
        "--public", action="store_true", help="create a public repository (default: a private one; no effect on others)"
    )
    chosen = parser.parse_args(arguments)
    folder = exported_folder(chosen.path)
    from rence_lightning.run.hub import push_folder

    print(f"{folder} pushed to {push_folder(folder, chosen.repository, private=not chosen.public)}")


def exported_folder(path: Path) -> Path:
    """The folder in the Hugging Face format that a path means.

    Raises:
        UserError: There is none.
    """
    if (path / "checkpoint.json").exists():  # its hf/ has no weights
        raise UserError(f"push: {path} is a checkpoint; export it, and push the folder: export {path} FOLDER")
    for folder in (path / "hf", path):
        if any(folder.glob("*.safetensors")):
            _check_base(folder)
            return folder
    raise UserError(
        f"push: {path} holds no exported policy; give a run directory with hf/, or a folder that `export` has written"
    )


def _check_base(folder: Path) -> None:
    """Refuses adapters that nobody else can load, because the model below them is a folder of this machine.

    Raises:
        UserError: It is.
    """
    config = folder / "adapter_config.json"
    base = json.loads(config.read_text())["base_model_name_or_path"] if config.exists() else None
    if base is not None and Path(base).exists():
        raise UserError(
            f"push: {folder} holds adapters of {base}, a folder of this machine; push the merged policy (export "
            f"without --adapter), or write the name of the model on the hub into {config}"
        )
