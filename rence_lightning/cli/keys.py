"""The keys of a configuration with their types, and the classes that may stand at each of them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from pkgutil import resolve_name
from typing import Any, get_args, get_origin, get_type_hints

from rence_lightning.cli.declared import SECTIONS
from rence_lightning.training.hooks import SUPPORTED

CLASSES: dict[str, type] = {section: resolve_name(path) for section, path in SECTIONS.items()}
"""The classes of the sections."""

ROOMS = (
    *(f"rence_lightning.{room}" for room in ("objectives", "prompts", "rewards", "environments", "rollouts")),
    *("rence_lightning.sampling", "rence_lightning.evaluation", "rence_lightning.training"),
    *("rence_lightning.callbacks", "lightning.pytorch.callbacks"),
    *("lightning.pytorch.loggers", "torch.optim", "torch.optim.lr_scheduler"),
)
"""The modules whose public classes are listed, and may be named without their module; the project's come first."""


@cache
def key_type(key: str) -> Any:
    """The type of the setting at a dotted key; None where the key is in no section."""
    section, *names = key.split(".")
    kind: Any = CLASSES.get(section)
    for name in names:
        kind = get_type_hints(kind.__init__).get(name)
    return kind


def is_settings(hint: Any) -> bool:
    """Whether a type is nothing but fields, which stand in a configuration themselves, without a `class_path`."""
    return isinstance(hint, type) and all(is_dataclass(each) for each in hint.__mro__[:-1])


def holds_keys(hint: Any) -> bool:
    """Whether the value of a setting is a mapping, so that a further part of its key is a key of that mapping."""
    members = [hint, *get_args(hint)]
    return any(get_origin(each) is dict or is_settings(each) for each in members)


@cache
def exported_classes() -> Mapping[str, type]:
    """The public classes of the rooms by name."""
    found: dict[str, type] = {}
    for room in ROOMS:
        module = import_module(room)
        for name in getattr(module, "__all__", vars(module)):
            if isinstance(value := getattr(module, name), type) and not name.startswith("_"):
                found.setdefault(name, value)
    return found


def find_class(name: Any) -> Any:
    """The class or function of a name or an import path; None if there is none."""
    if not isinstance(name, str):
        return None
    module, _, last = name.rpartition(".")
    try:
        return getattr(import_module(module), last) if module else exported_classes().get(last)
    except (ImportError, AttributeError, ValueError):
        return None


def class_list(key: str) -> str:
    """The classes that may stand at a key, each with the first line of its docstring, as a text to print."""
    classes = fitting_classes(key)
    width = max(map(len, classes), default=0)
    lines = [f"  {name:<{width}}  {(inspect.getdoc(kind) or '').splitlines()[0]}" for name, kind in classes.items()]
    end = f"--{key}.help CLASS explains the settings of one. A class of your own is named by its import path:"
    return "\n".join([f"classes for --{key}:", *(lines or ["  none"]), "", end, f"--{key} my_module.MyClass"])


def fitting_classes(key: str) -> dict[str, type]:
    """The public classes that may stand at a key, by name; none where the key is that of no part."""
    return {name: kind for base in bases(key_type(key)) for name, kind in _fitting(base).items()}


def bases(hint: Any) -> Iterator[type]:
    """The classes in a type: of a union, of the items of a list or mapping, of what a function returns."""
    if get_origin(hint) is Callable:
        hint = get_args(hint)[-1]
    members = get_args(hint)
    if isinstance(hint, type) and not members and hint.__module__ != "builtins":
        yield hint
    for member in members:
        yield from bases(member)


def _fitting(base: type) -> dict[str, type]:
    classes = exported_classes().items()
    if getattr(base, "_is_protocol", False):
        return {name: kind for name, kind in classes if kind is not base and not missing_methods(kind, base)}
    fitting = {name: kind for name, kind in classes if issubclass(kind, base) and not inspect.isabstract(kind)}
    if len(fitting) > 1:
        fitting = {name: kind for name, kind in fitting.items() if kind is not base}
    lightnings = "lightning.pytorch.callbacks."
    return {n: kind for n, kind in fitting.items() if not kind.__module__.startswith(lightnings) or n in SUPPORTED}


def missing_methods(kind: Any, protocol: type, typed: bool = False) -> list[str]:
    """The methods of a protocol that a class lacks; with `typed`, also those with other parameters or types."""
    methods = {name: value for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")}
    own: dict[str, Any] = {name: getattr(kind, name, None) for name in methods}
    return [
        name
        for name, method in methods.items()
        if not callable(own[name]) or (typed and inspect.get_annotations(own[name]) != inspect.get_annotations(method))
    ]
