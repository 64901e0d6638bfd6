"""The configurations that ship with the package, which `--config` takes by name."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rence_lightning.errors import UserError
from rence_lightning.text import did_you_mean

FOLDER = Path(__file__).parent.parent / "conf"

SETTINGS = re.compile(r"[:{\n]")
"""What the name of a file does not hold, and settings in YAML do."""


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


def config_arguments(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Position, option with `=` or nothing, and value of each `--config` and `-c` of a command line."""
    for position, argument in enumerate(arguments):
        if argument in ("--config", "-c") and position + 1 < len(arguments):
            yield position + 1, "", arguments[position + 1]
        elif argument.startswith(("--config=", "-c=")):
            option, _, value = argument.partition("=")
            yield position, f"{option}=", value


def with_files_for_names(arguments: Sequence[str]) -> list[str]:
    """A command line in which names of the package's configurations are replaced by the paths of their files.

    A file of the user's whose path is that name comes first; settings in YAML are left as they are.

    Raises:
        UserError: There is neither such a file nor such a name.
    """
    changed = list(arguments)
    for position, option, value in config_arguments(arguments):
        if not SETTINGS.search(value):
            changed[position] = option + config_file(value)
    return changed


def config_file(name: str, option: str = "--config") -> str:
    """The path of the file that a path or a name of the package's configurations means.

    Args:
        name: Path or name.
        option: Option or argument that it was given by, for messages.

    Raises:
        UserError: There is neither such a file nor such a name.
    """
    known = package_configs()
    if Path(name).is_file():
        return name
    if name in known:
        return str(known[name])
    written = re.sub(r"^(?:\./)?conf/|\.ya?ml$", "", name)  # the path of the file in a clone
    if written in known:
        raise UserError(f"{option}: there is no file {name}; the package has this configuration as {written}")
    raise UserError(
        f"{option}: there is no file {name}, and no configuration of the package has this name"
        f"{did_you_mean(written, known)}; the package has {known_names(written.rpartition('/')[0])}"
    )
