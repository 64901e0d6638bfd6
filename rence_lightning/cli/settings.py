"""The settings of a command line: files and options in the order given, and the line on which each one stands."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from rence_lightning.cli.declared import groups, key_hint, keys
from rence_lightning.errors import UserError, did_you_mean, one_line

FOLDER = Path(__file__).parent.parent / "conf"
"""The configurations that ship with the package, which `--config` takes by name."""


@dataclass(frozen=True)
class Layer:
    """Settings that were given together, and that override earlier ones.

    Attributes:
        settings: Nested settings of a file or a call; the value of an option.
        option: Dotted key of an option; empty for a file or a call.
        origin: Name of the file or call, for messages; empty for an option.
        lines: Line of each setting of a file by its dotted key, without `init_args` and positions in lists.
    """

    settings: Any
    option: str = ""
    origin: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)


class Settings:
    """What a command line asks for: layers of settings, and perhaps help or the configuration instead of a run.

    Args:
        arguments: Arguments after the command.

    Attributes:
        layers: Files and options in their order.
        help: Dotted key, and class if one is named, that help is asked for; an empty key for that of the command.
        print_config: Whether the configuration is printed instead of run.

    Raises:
        UserError: An option has no value, a file does not exist or cannot be read, or a key does not exist.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.layers: list[Layer] = []
        self.help: tuple[str, str] | None = None
        self.print_config = False
        rest = list(arguments)
        while rest:
            option, has_value, value = rest.pop(0).partition("=")
            if option in ("-h", "--help"):
                self.help = ("", "")
            elif option == "--print_config":
                self.print_config = True
            elif option.startswith("--") and option.endswith(".help"):
                named = rest.pop(0) if not has_value and rest and not rest[0].startswith("-") else value
                self.help = (option[2:].removesuffix(".help"), named)
            elif not option.startswith("-"):
                hint = f" (did you mean --config={option}?)" if option.endswith((".yaml", ".yml")) else ""
                raise UserError(f"unrecognized arguments: {option}{hint}")
            elif not has_value and (not rest or rest[0].startswith("--")):
                raise UserError(f"{option}: expected one argument")
            else:
                value = value if has_value else rest.pop(0)
                is_file = option in ("-c", "--config")
                layer = _read(value) if is_file else Layer(_value(option, value), option.removeprefix("--"))
                check(layer)
                self.layers.append(layer)

    def where(self, key: str) -> str:
        """The place at which a dotted key, or the nearest setting around it, was given last, as the start of a message.

        Empty where an option gives it.
        """
        parts = key.split(".")
        if any(layer.option and _overlap(layer.option, parts) for layer in self.layers):
            return ""
        for length in range(len(parts), 0, -1):
            around = ".".join(parts[:length])
            for layer in reversed(self.layers):
                if around in layer.lines:
                    return f"{layer.origin}, line {layer.lines[around]}: "
                if not layer.lines and layer.origin and _holds(layer.settings, parts[:length]):
                    return f"{layer.origin}: "
        return ""

    def given(self, keys: Sequence[str]) -> list[str]:
        """Those of some dotted keys that an option or a call sets, and not a file alone."""
        layers = [
            (f"{each.option.replace('.init_args', '')}.", each.settings) for each in self.layers if not each.lines
        ]
        return [key for key in keys if any(o.startswith(f"{key}.") or _holds(s, key.split(".")) for o, s in layers)]


def check(layer: Layer) -> None:
    """Refuses keys that do not exist, and sections without settings, with a `UserError`."""
    if layer.option:
        option = layer.option.removesuffix("+")
        if not any(option == key or option.startswith(f"{key}.") for key in keys()):
            raise UserError(f"there is no option --{layer.option}{key_hint(option)}")
    else:
        _check(layer, layer.settings)


def _check(layer: Layer, settings: Mapping[str, Any], section: str = "") -> None:
    for name, value in settings.items():
        key = f"{section}.{name}" if section else str(name)
        place = f"{layer.origin}, line {layer.lines[key]}" if key in layer.lines else layer.origin
        if key in groups():
            if not isinstance(value, Mapping):
                given = "holds nothing" if value is None else "must hold settings"
                raise UserError(f"{place}: {key} {given}; add settings, or remove the line")
            _check(layer, value, key)
        elif key not in keys():
            raise UserError(f"{place}: there is no key {key}{key_hint(key)}")


def package_configs() -> dict[str, Path]:
    """The files by name: `arithmetic`, `hardware/gpu1`, ... Those in a folder are overlays on one of the others."""
    files = sorted(FOLDER.glob("*.yaml")) + sorted(FOLDER.glob("*/*.yaml"))
    return {file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in files}


def known_names() -> str:
    """The names in one line, those of a folder in braces: `arithmetic, rence, hardware/{cpu, gpu1}`."""
    parts = []
    for folder, names in groupby(package_configs(), key=lambda name: name.rpartition("/")[0]):
        listed = ", ".join(name.rpartition("/")[2] for name in names)
        parts.append(f"{folder}/{{{listed}}}" if folder else listed)
    return ", ".join(parts)


def config_file(name: str, option: str = "--config") -> str:
    """The file that a path or a name of the package's configurations means; `option` is named if there is none.

    Raises:
        UserError: There is neither such a file nor such a name.
    """
    known, wanted = package_configs(), re.sub(r"^(?:\./)?conf/|\.ya?ml$", "", name)  # also its path in a clone
    if Path(name).is_file():
        return name
    if wanted in known:
        return str(known[wanted])
    whole = ", ".join(each for each in known if "/" not in each)
    raise UserError(
        f"{option}: there is no file {name}, and no configuration of the package has this name"
        f"{did_you_mean(wanted, known)}; the package has {whole}, and overlays on them (fit --help lists all)"
    )


def _overlap(option: str, parts: Sequence[str]) -> bool:
    """Whether an option sets a key, a setting around it (data.filter for data.filter.t_easy), or a setting in it."""
    given = option.removesuffix("+").replace(".init_args", "").split(".")
    return all(one == other for one, other in zip(given, parts, strict=False))


def _holds(settings: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(settings, Mapping) or part not in settings:
            return False
        settings = settings[part]
    return True


def _value(option: str, text: str) -> Any:
    """The value of an option: collections and null as in YAML; all else is read when its type is known.

    Instructions such as `[{problem}]` are a text, although YAML would read a list.

    Raises:
        UserError: It is not valid YAML.
    """
    if text == "null":
        return None
    if not text.startswith(("{", "[")) or "{problem}" in text:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{option}: {text} is not valid YAML; quote it as a whole") from error


def _read(config: str) -> Layer:
    """The settings of a file, of a name of the package's, or of YAML on the command line."""
    if re.search(r"[:{\n]", config):
        return _parse("--config", config)
    name = config_file(config)
    try:
        return _parse(name, Path(name).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{name}: cannot be read: {one_line(error)}") from error


def _parse(name: str, text: str) -> Layer:
    """The settings of a file, and their lines.

    Raises:
        UserError: The text is not YAML, holds something other than settings, or gives a setting twice.
    """
    loader, lines = yaml.SafeLoader(text), dict[str, int]()
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{name}: holds no settings" + (" at all" if root is None else " (KEY: VALUE)"))
        _note_lines(name, root, (), lines)
        settings: dict[str, Any] = loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"{name}{line}: not valid YAML: {what}") from error
    return Layer(settings, origin=name, lines=lines)


def _note_lines(name: str, node: yaml.Node, way: tuple[str, ...], lines: dict[str, int]) -> None:
    """Notes the line of every key, and refuses a key that is given twice, of which YAML would take the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _note_lines(name, item, way, lines)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        setting, line = str(key.value), int(key.start_mark.line) + 1
        if setting in seen and setting != "<<":
            raise UserError(f"{name}, line {line}: {setting} is already given on line {seen[setting]}")
        seen[setting] = line
        inner = way if setting == "init_args" else (*way, setting)
        lines.setdefault(".".join(inner), line)
        _note_lines(name, value, inner, lines)
