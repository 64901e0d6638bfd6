"""The keys of a configuration with their types, and the classes that may stand at each of them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

import rence_lightning.callbacks as callbacks
from rence_lightning.cli.settings import CALLBACKS
from rence_lightning.errors import nearest
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.hooks import SUPPORTED
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer
from rence_lightning.training.warmup import Warmup

CLASSES: dict[str, type] = {
    "trainer": Trainer,
    "model": PolicyModule,
    "data": RolloutDataModule,
    **{section: getattr(callbacks, name) for section, name in CALLBACKS.items()},
    "warmup": Warmup,
}
"""The classes of the sections."""

ROOMS = (
    *(f"rence_lightning.{room}" for room in ("objectives", "prompts", "rewards", "rollouts", "sampling", "evaluation")),
    *("rence_lightning.run", "rence_lightning.training", "rence_lightning.callbacks", "lightning.pytorch.callbacks"),
    *("lightning.pytorch.loggers", "torch.optim", "torch.optim.lr_scheduler"),
)
"""The modules whose public classes are listed, and may be named without their module; the project's come first."""


@cache
def known_keys() -> dict[str, Any]:
    """The types of all settings by dotted key; `data.seed` is none, because it follows `seed_everything`."""
    found: dict[str, Any] = {"seed_everything": bool | int, "ckpt_path": str | None}
    for section, kind in CLASSES.items():
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]
        for name, hint in ((each, hints[each]) for each in inspect.signature(kind).parameters):
            inner = {f"{name}.{each.name}": each.type for each in fields(hint)} if is_settings(hint) else {name: hint}
            found |= {f"{section}.{key}": each for key, each in inner.items()}
    del found["data.seed"]
    return found


@cache
def groups() -> frozenset[str]:
    """All that stands before a dot of a key: sections, and settings that are a class of fields, as `data.sampling`."""
    parts = [key.split(".") for key in known_keys()]
    return frozenset(".".join(names[:length]) for names in parts for length in range(1, len(names)))


def is_settings(hint: Any) -> bool:
    """Whether a type is nothing but fields, which stand in a configuration themselves, without a `class_path`."""
    return isinstance(hint, type) and all(is_dataclass(each) for each in hint.__mro__[:-1])


def holds_keys(hint: Any) -> bool:
    """Whether the value of a setting is a mapping, so that a further part of its key is a key of that mapping."""
    members = [hint, *get_args(hint)]
    return any(get_origin(each) is dict or is_settings(each) for each in members)


def key_hint(key: str) -> str:
    """The end of a message about a dotted key that does not exist: the one that was meant, if there is one like it."""
    key = key.replace(".init_args", "")
    section, by_name = ".".join(key.split(".")[:2]), {each.rpartition(".")[2]: each for each in reversed(known_keys())}
    near = nearest(key, known_keys(), cutoff=0.75) or nearest(section, [*known_keys(), *groups()], cutoff=0.75)
    near = near or by_name.get(nearest(key, by_name, cutoff=0.85) or "")
    return f" (did you mean {near}?)" if near is not None else ""


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
    return {name: kind for base in bases(known_keys().get(key)) for name, kind in _fitting(base).items()}


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


def missing_methods(kind: Any, protocol: type) -> list[str]:
    """The methods of a protocol that a class lacks."""
    methods = [name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")]
    return [name for name in methods if not callable(getattr(kind, name, None))]
