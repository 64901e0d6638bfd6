"""The configurations that ship with the package, which `--config` takes by name."""

import re
from itertools import groupby
from pathlib import Path

from rence_lightning.errors import UserError
from rence_lightning.text import did_you_mean

FOLDER = Path(__file__).parent.parent / "conf"


def is_yaml(text: str) -> bool:
    """Whether the value of `--config` is settings in YAML, and not the name of a file."""
    return re.search(r"[:{\n]", text) is not None


def package_configs() -> dict[str, Path]:
    """The files by name: `arithmetic`, `hardware/gpu1`, ... Those in a folder are overlays on one of the others."""
    files = sorted(FOLDER.glob("*.yaml")) + sorted(FOLDER.glob("*/*.yaml"))
    return {file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in files}


def known_names(expanded: str | None = None) -> str:
    """The names in one line, those of a folder in braces: `arithmetic, rence, hardware/{cpu, gpu1}`.

    Args:
        expanded: Folder whose names are listed; other folders are named alone, as `paper/...`. None: all are listed.
    """
    parts = []
    for folder, names in groupby(package_configs(), key=lambda name: name.rpartition("/")[0]):
        listed = ", ".join(name.rpartition("/")[2] for name in names)
        braced = f"{{{listed}}}" if expanded in (None, folder) else "..."
        parts.append(f"{folder}/{braced}" if folder else listed)
    return ", ".join(parts)


def config_file(name: str, option: str = "--config") -> str:
    """The path of the file that a path or a name of the package's configurations means.

    Args:
        name: Path or name.
        option: Option or argument that it was given by, for messages.

    Raises:
        UserError: There is neither such a file nor such a name.
    """
    known, written = package_configs(), re.sub(r"^(?:\./)?conf/|\.ya?ml$", "", name)  # also its path in a clone
    if Path(name).is_file():
        return name
    if written in known:
        return str(known[written])
    raise UserError(
        f"{option}: there is no file {name}, and no configuration of the package has this name"
        f"{did_you_mean(written, known)}; the package has {known_names(written.rpartition('/')[0])}"
    )
