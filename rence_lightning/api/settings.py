"""Objects of Python as settings of a configuration: their class and arguments, where they have an import path."""

import hashlib
import json
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from rence_lightning.configurable import Configurable
from rence_lightning.prompts import FileProblems, ListProblems
from rence_lightning.run.written_config import RUN_DIRECTORY

Key = tuple[str | int, ...]
"""The way to a value in nested settings: names, and positions in lists."""

GIVEN_IN_PYTHON = "rence_lightning.api.given.GivenInPython"


class NotImportableError(Exception):
    """Something that the command line cannot build again.

    Args:
        what: What it is, and why.
        instead: What to do, as an instruction.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what}; {instead}")
        self.what = what
        self.instead = instead


IN_A_MODULE = "put it into a module of its own and name it by its import path"


@dataclass
class Found:
    """What was found among settings while they were written down.

    Attributes:
        objects: Objects that the run uses as they are, by the way to their settings.
        files: Rows of problems by the name of the file that holds them.
    """

    objects: dict[Key, Any] = field(default_factory=dict)
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def as_settings(value: Any, key: Key, found: Found) -> Any:
    """A value as plain settings, such as YAML holds.

    Args:
        value: Plain value, dictionary, list, function, class, or object that takes the place of a `class_path`.
        key: Way to the value.
        found: Record of the objects and rows that are met.

    Raises:
        NotImportableError: A function or class has no import path, and is in no object that could be named instead.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Integral | Real):  # of NumPy, too
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Mapping):
        return {str(name): as_settings(each, (*key, str(name)), found) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_settings(each, (*key, position), found) for position, each in enumerate(value)]
    if callable(value) and not isinstance(value, Configurable):  # a function or a class
        return _import_path(value)
    if is_dataclass(value) and not isinstance(value, Configurable):  # settings in themselves, such as Sampling
        named = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        return as_settings(named, key, found)
    found.objects[key] = value
    try:
        return _class_and_arguments(value, key, found)
    except NotImportableError as error:
        described = {"key": dotted(key), "what": error.what, "instead": error.instead}
        return {"class_path": GIVEN_IN_PYTHON, "init_args": described}


def dotted(key: Key) -> str:
    """The dotted name of a key, without `init_args`."""
    return ".".join(str(name) for name in key if name != "init_args")


def _class_and_arguments(value: Any, key: Key, found: Found) -> Any:
    """The settings from which the command line builds an equal object.

    Raises:
        NotImportableError: It cannot.
    """
    if not isinstance(value, Configurable):
        what = f"an object of {_name(type(value))}, whose arguments are not known"
        raise NotImportableError(what, "give its class_path and init_args")
    if type(value) is ListProblems:
        return _file_of(value, found)
    inside = Found(files=found.files)  # the object brings the objects in it along
    try:
        given = value.arguments()
    except TypeError as error:
        raise NotImportableError(f"an object of {error}", "name them in the constructor") from error
    arguments = as_settings(given, (*key, "init_args"), inside)
    return {"class_path": _import_path(type(value)), "init_args": arguments}


def _file_of(problems: ListProblems, found: Found) -> dict[str, Any]:
    """The file of the run directory that holds the rows of a list.

    Raises:
        NotImportableError: The rows hold something other than JSON does.
    """
    arguments = problems.arguments()
    rows = [dict(row) for row in arguments.pop("rows")]
    try:
        text = json.dumps(rows, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NotImportableError(f"rows that JSON cannot hold ({error})", "write them to a file") from error
    name = f"{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.jsonl"  # the same for both parts of a split
    found.files[name] = rows
    path = f"{RUN_DIRECTORY}/problems/{name}"
    return {"class_path": _import_path(FileProblems), "init_args": {"path": path, **arguments}}


def _import_path(thing: Any) -> str:
    """The path by which a class or function can be imported.

    Raises:
        NotImportableError: It has none.
    """
    if not hasattr(thing, "__qualname__"):
        raise NotImportableError(f"the callable {thing!r:.80}, which has no import path", IN_A_MODULE)
    module, name = str(thing.__module__), str(thing.__qualname__)
    try:
        if module != "__main__" and pkgutil.resolve_name(f"{module}:{name}") is thing:
            return f"{_shortest(module, name, thing)}.{name}"
    except (ImportError, AttributeError, ValueError):
        pass
    kind = "the class" if isinstance(thing, type) else "the function"
    raise NotImportableError(f"{kind} {_name(thing)}, which has no import path", IN_A_MODULE)


def _shortest(module: str, name: str, thing: Any) -> str:
    """The outermost package that has a class or function under its name: `torch.optim` of `torch.optim.adamw`."""
    parts = module.split(".")
    packages = [".".join(parts[:length]) for length in range(1, len(parts))]
    return next((each for each in packages if vars(sys.modules[each]).get(name) is thing), module)


def _name(thing: Any) -> str:
    where = "the notebook or script" if thing.__module__ == "__main__" else thing.__module__
    return f"{thing.__qualname__} of {where}"
