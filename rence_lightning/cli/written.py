"""The configuration of a run as it is saved: plain settings, from which the command line builds the run again."""

import pkgutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from rence_lightning.parts import Configurable

GIVEN_IN_PYTHON = "given in Python:"
"""Start of what stands for a part that has no name, which the command line refuses."""


def written(config: Namespace) -> tuple[str, dict[str, str]]:
    """A configuration in YAML, and what of it cannot be named: descriptions by dotted key.

    An object of Python stands as its class and arguments, and a function or class as its import path. In place of what
    has none, the YAML holds its description, which the command line refuses.
    """
    unnamed: dict[str, str] = {}
    settings = named(config, "", unnamed)
    settings["data"].pop("seed", None)  # it follows from seed_everything
    settings.pop("config", None)
    settings["ckpt_path"] = None  # the saved configuration starts a new run
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), unnamed


def named(value: Any, key: str, unnamed: dict[str, str]) -> Any:
    """The value at a dotted key as plain settings; `unnamed` records what of it has no name."""
    if isinstance(value, Enum):  # one of text, too
        return value.name
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Real):  # of NumPy, too
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): named(each, f"{key}.{name}".lstrip("."), unnamed) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [named(each, f"{key}.{position}", unnamed) for position, each in enumerate(value)]
    if isinstance(value, Configurable) and (path := import_path(type(value))) is not None:
        with suppress(TypeError):  # its arguments have no names
            return {"class_path": path, "init_args": named(value.arguments(), key, unnamed)}
    if is_dataclass(value) and not isinstance(value, type | Configurable):
        return {each.name: named(getattr(value, each.name), f"{key}.{each.name}", unnamed) for each in fields(value)}
    is_object = not hasattr(value, "__qualname__")
    if not is_object and (path := import_path(value)) is not None:
        return path
    thing = type(value) if is_object else value
    kind = "an object of" if is_object else "the class" if isinstance(value, type) else "the function"
    where = "the notebook or script" if thing.__module__ == "__main__" else thing.__module__
    unnamed[key] = (
        f"{kind} {thing.__qualname__} of {where}, which YAML cannot name; put it into a module of its own"
        + (", and give its class_path and init_args" if is_object else "")
    )
    return f"{GIVEN_IN_PYTHON} {unnamed[key]}"


def import_path(thing: Any) -> str | None:
    """The path by which a class or function can be imported, from the outermost package that has it; else None."""
    module, name = str(thing.__module__), str(thing.__qualname__)
    try:
        if module == "__main__" or pkgutil.resolve_name(f"{module}:{name}") is not thing:
            return None
    except (ImportError, AttributeError, ValueError):
        return None
    parts = module.split(".")
    packages = [".".join(parts[:length]) for length in range(1, len(parts))]
    return f"{next((each for each in packages if vars(sys.modules[each]).get(name) is thing), module)}.{name}"
