"""What is wrong with a configuration, in one line: where it is, which setting it is, and what the parser says of it.

jsonargparse reports all attempts to read a value that may be of several types, on a page with the types and the values.
The line that tells what is wrong is the innermost one; its wording is kept.
"""

import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Sequence

from rence_lightning.cli.classes import exported_classes, missing_methods
from rence_lightning.cli.config_files import ConfigFiles
from rence_lightning.text import did_you_mean, nearest

LONGEST = 300
KEY = re.compile(r"""Parser key "([^"]+)":|Group '([^']+)' does not|ption '([^']+)'|^Key "([^"]+)" is required""")
FRAME = re.compile(
    r"$|Parser key \"[^\"]+\":$|Problem with given class_path|Does not validate|Subtypes:|Errors:|Given value|"
    r"Expected a path but|Expected a <class 'NoneType'>|Subclass types expect|a class path \(str\)|a dict |object_type="
)
NOISE = re.compile(r"^Type typing\.Callable.*? class: |^Parser key \"[^\"]+\":|\.* Got value: Namespace\(.*")


def explain(message: str, files: ConfigFiles, file: str | None = None) -> str:
    """The one line that tells what jsonargparse or OmegaConf reports of a configuration.

    Args:
        message: Their message, of any number of lines.
        files: The files of the command line.
        file: The file in which the error was found; None if it was found after all files had been read.
    """
    if missing := re.fullmatch(r"the following arguments are required: (.+)", message):
        names = ", ".join(_without_command(name) for name in missing[1].split(", "))
        return f"missing: {names} (give a --config, for example --config arithmetic, or options)"
    if interpolated := re.search(r"full_key: (\S+)", message):
        key = _without_command(interpolated[1])
        message = message.replace(interpolated[0], "").replace("key '..", "key '")
    else:
        key = _key(message)
    text = _telling_line(message)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return ": ".join(part for part in (files.where(key, file) if key else file, key, text) if part)


def _key(message: str) -> str:
    found = [next(filter(None, groups)) for line in message.splitlines() for groups in KEY.findall(line.strip("- "))]
    return ".".join(dict.fromkeys(found))


def _telling_line(message: str) -> str:
    """The innermost lines of a message that are no frame around others, as one."""
    lines = [(len(line) - len(line.lstrip(" -")), line.lstrip(" -").rstrip()) for line in message.splitlines()]
    lines = [(depth, NOISE.sub("", line).strip()) for depth, line in lines]
    telling = [(depth, line) for depth, line in lines if not FRAME.match(line)]
    if not telling:
        return " ".join(message.split())
    innermost = max(depth for depth, _ in telling) if "class_path '" in message else None
    text = "; ".join(dict.fromkeys(line for depth, line in telling if innermost in (None, depth)))
    given = re.search(r"Given value: ([^\s{\[(]\S{0,79}?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    if given is not None and text.startswith(("Expected a <", "Import path does")) and "Got value" not in text:
        text += f". Got value: {given[1]}"
    if (part := re.search(r"Problem with given class_path '(?:[\w.]+\.)?(\w+)'", message)) and "attribute" not in text:
        text = f"{part[1]}: {text}"
    return text + _hint(text)


def _hint(text: str) -> str:
    """The class that may have been meant, or the methods that a class lacks."""
    if protocol := re.search(r"does not implement protocol (\w+)", text):
        class_path = re.search(r"Import path (?!does)(\S+)|Got value: (\S+)", text)
        return f": {missing_methods(class_path[1] or class_path[2], protocol[1])}" if class_path else ""
    if own := re.search(r"module '(\S+)' has no attribute '(\w+)'", text):
        names = [name for name in vars(sys.modules.get(own[1], sys)) if not name.startswith("_")]
        if hint := did_you_mean(own[2], names):
            return hint
    if unknown := re.search(r"module '\S+' has no attribute '(\w+)'|Expected a dot import path string: (\w+)$", text):
        name, known = unknown[1] or unknown[2], exported_classes()
        if name in known:  # where a protocol is asked for, the parser knows no names
            return f" (give the import path: {known[name].__module__}.{name})"
        return did_you_mean(name, known)
    if "subclass of Reward" in text and (path := re.search(r"Got value: ([\w.]+)", text)) and _is_function(path[1]):
        return f" (it is a function: name the class FunctionReward, with the argument function={path[1]})"
    return ""


def _is_function(path: str) -> bool:
    try:
        return inspect.isfunction(pkgutil.resolve_name(path))
    except (ImportError, AttributeError, ValueError):
        return False


def nearest_key(key: str, keys: Sequence[str]) -> str | None:
    """The dotted key that was meant: one of the same section, of a section with a similar name, or of this very name.

    Args:
        key: A dotted key that does not exist.
        keys: Those that do.
    """
    section, _, name = key.replace(".init_args", "").rpartition(".")
    sections = sections_of(keys)
    if section and section not in sections:
        near = nearest(section, [*sections, *keys, "init_args"])
        if near is None:
            return None
        inside = nearest_key(f"{near}.{name}", keys) if near in sections else None
        return inside if inside is not None and inside.startswith(near) else near
    siblings = {known.rpartition(".")[2]: known for known in [*keys, *sections] if known.rpartition(".")[0] == section}
    if (near := nearest(name, siblings)) is not None:
        return siblings[near]
    elsewhere = {known.rpartition(".")[2]: known for known in reversed(keys)}
    near = nearest(name, elsewhere, cutoff=0.85)
    return elsewhere[near] if near is not None else None


def sections_of(keys: Iterable[str]) -> list[str]:
    """The sections that dotted keys are in: all that stands before one of their dots."""
    parts = [key.split(".") for key in keys]
    return sorted({".".join(names[:length]) for names in parts for length in range(1, len(names))})


def _without_command(key: str) -> str:
    return re.sub(r"^(fit|validate)\.", "", key)
