"""The classes that a configuration may name: found for `--KEY.help`, and for hints in error messages."""

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

ROOMS = [
    *(f"rence_lightning.{room}" for room in ("objectives", "prompts", "rewards", "rollouts", "sampling", "evaluation")),
    *("rence_lightning.run", "rence_lightning.training", "rence_lightning.callbacks", "lightning.pytorch.callbacks"),
    *("lightning.pytorch.loggers", "torch.optim", "torch.optim.lr_scheduler"),
]
"""The modules whose public classes are looked at, the project's first."""


def exported_classes() -> dict[str, type]:
    """The public classes of the rooms that are imported, by name."""
    found: dict[str, type] = {}
    for room in ROOMS:
        module = sys.modules.get(room)
        for name in getattr(module, "__all__", vars(module) if module is not None else ()):
            value = getattr(module, name, None)
            if isinstance(value, type) and not name.startswith("_"):
                found.setdefault(name, value)
    return found


def classes_of(base: type) -> list[tuple[str, str]]:
    """Name and first line of the docstring of every class that may stand where a base class is asked for.

    Args:
        base: The class, of whose subclasses those in the rooms are listed, or a protocol that they implement.
    """
    for room in ROOMS:
        import_module(room)
    classes = exported_classes().items()
    if _is_protocol(base):
        fitting = {name: kind for name, kind in classes if kind is not base and not _lacking(kind, base)}
    else:
        fitting = {name: kind for name, kind in classes if issubclass(kind, base) and not inspect.isabstract(kind)}
    if len(fitting) > 1:
        fitting = {name: kind for name, kind in fitting.items() if kind is not base}
    return [(name, _first_line(kind)) for name, kind in fitting.items() if not _is_refused(kind)]


def missing_methods(class_path: str, protocol: str) -> str:
    """What a class lacks to implement a protocol of the rooms.

    Args:
        class_path: The import path of the class.
        protocol: The name of the protocol.
    """
    module, _, name = class_path.rpartition(".")
    kind, wanted = getattr(import_module(module), name), exported_classes().get(protocol)
    if wanted is None:
        return "it lacks methods of the protocol"
    lacking = ", ".join(_lacking(kind, wanted))
    if lacking:
        return f"it lacks {lacking}"
    differing = [f"{method}{_parameters(wanted, method)}" for method in _differing(kind, wanted)]
    return f"the parameters or types of its methods must be those of {'; '.join(differing) or protocol}"


def _is_refused(kind: type) -> bool:
    """Whether a class is one of Lightning's callbacks that do not run here."""
    supported = import_module("rence_lightning.training.hooks").SUPPORTED
    return kind.__module__.startswith("lightning.pytorch.callbacks.") and kind.__name__ not in supported


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _methods(protocol: type) -> Iterator[str]:
    return (name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_"))


def _lacking(kind: Any, protocol: type) -> list[str]:
    return [name for name in _methods(protocol) if not callable(getattr(kind, name, None))]


def _differing(kind: Any, protocol: type) -> list[str]:
    return [name for name in _methods(protocol) if _parameters(kind, name) != _parameters(protocol, name)]


def _parameters(kind: Any, method: str) -> str:
    return f"({', '.join(inspect.signature(getattr(kind, method)).parameters)})"


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]
