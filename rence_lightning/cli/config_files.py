"""The YAML files of a command line, read only to say on which line of which file a setting is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import yaml

from rence_lightning.cli.package_configs import SETTINGS, config_arguments
from rence_lightning.errors import UserError


class Settings(str):
    """Settings in YAML that are given instead of the name of a file.

    Attributes:
        origin: Where they come from, for messages.
    """

    origin: str

    def __new__(cls, text: str, origin: str) -> Self:
        settings = super().__new__(cls, text)
        settings.origin = origin
        return settings


class ConfigFiles:
    """The files named by `--config` or `-c`, in their order.

    Args:
        arguments: The arguments of the command line.

    Raises:
        UserError: A file is not YAML, holds something other than settings, or gives a setting twice.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._roots: list[tuple[str, yaml.MappingNode]] = []
        for _, _, name in config_arguments(self._arguments):
            if not SETTINGS.search(name) and Path(name).is_file():  # anything else is settings themselves
                self._roots.append((name, _read(name, Path(name))))

    def top_level_keys(self) -> Iterator[tuple[str, str]]:
        """`FILE, line N` and the name of each key that is in no section."""
        for name, root in self._roots:
            for key, _ in root.value:
                yield f"{name}, line {_line(key)}", str(key.value)

    def check_sections(self, sections: Sequence[str]) -> None:
        """Refuses `trainer: 3` and a `trainer:` whose settings are all commented out: they would empty the section.

        A text is the name of a further file, which the parser reads.

        Raises:
            UserError: A section holds no settings.
        """
        for name, root in self._roots:
            for section in sections:
                for key, value in _find(root, section.split(".")):
                    if isinstance(value, yaml.MappingNode) or value.tag == "tag:yaml.org,2002:str":
                        continue
                    given = "holds nothing" if value.tag.endswith(":null") else "must hold settings"
                    raise UserError(f"{name}, line {_line(key)}: {section} {given}; add settings, or remove the line")

    def where(self, key: str, file: str | None = None) -> str | None:
        """`FILE, line N` of a dotted key, or of the nearest setting around it; None if an option gives it.

        `init_args` and the items of lists need not be in the key.

        Args:
            key: The dotted key.
            file: The file that was being read. None: all files had been read, and the last one wins, as in parsing.
        """
        parts = key.split(".")
        if file is None and any(_names(argument, parts) for argument in self._arguments):
            return None
        roots = [(name, root) for name, root in reversed(self._roots) if file in (None, name)]
        for length in range(len(parts), min(len(parts), 2) - 1, -1):
            for name, root in roots:
                for node, _ in _find(root, parts[:length]):
                    return f"{name}, line {_line(node)}"
        return file


def _read(name: str, path: Path) -> yaml.MappingNode:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise UserError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{name}: cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{name}: holds no settings" + (" at all" if root is None else " (KEY: VALUE)"))
    _refuse_duplicates(name, root)
    return root


def _refuse_duplicates(name: str, node: yaml.Node) -> None:
    """YAML readers let the last of two equal keys win, which silently loses a whole section."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(name, item)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        setting = str(key.value)
        if setting in lines and setting != "<<":
            raise UserError(f"{name}, line {_line(key)}: {setting} is already given on line {lines[setting]}")
        lines[setting] = _line(key)
        _refuse_duplicates(name, value)


def _find(node: yaml.Node, parts: Sequence[str]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Key and value of the settings that a dotted key may mean."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _find(item, parts)
    if not isinstance(node, yaml.MappingNode):
        return
    children = {str(key.value): (key, value) for key, value in node.value}
    for length in range(len(parts), 0, -1):  # a key may be written with its dots
        if (found := children.get(".".join(parts[:length]))) is not None:
            if length == len(parts):
                yield found
            else:
                yield from _find(found[1], parts[length:])
            return
    if "init_args" in children:
        yield from _find(children["init_args"][1], parts)


def _names(argument: str, parts: Sequence[str]) -> bool:
    """Whether an option sets the key, a setting around it (data.filter for data.filter.t_easy), or a setting in it."""
    option = argument.removeprefix("--").partition("=")[0].removesuffix("+").replace(".init_args", "")
    given = option.split(".")
    return argument.startswith("--") and all(one == other for one, other in zip(given, parts, strict=False))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
