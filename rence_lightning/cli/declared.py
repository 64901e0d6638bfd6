"""The settings of a configuration as the sources of their classes declare them, read without an import of these.

An import of torch and Lightning takes seconds, in which a misspelled key or a call for help would go unanswered.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from docstring_parser import parse

from rence_lightning.errors import PACKAGE, nearest

# The callbacks in the order in which they run: an iteration is measured and shown, the policy is evaluated and saved.
SECTIONS = {
    "trainer": "rence_lightning.training.Trainer",
    "model": "rence_lightning.training.PolicyModule",
    "data": "rence_lightning.sampling.RolloutDataModule",
    "old_policy": "rence_lightning.callbacks.OldPolicySnapshot",
    "adaptive_kl": "rence_lightning.callbacks.AdaptiveKL",
    "rollout_log": "rence_lightning.callbacks.RolloutLog",
    "progress": "rence_lightning.callbacks.Progress",
    "evaluation": "rence_lightning.callbacks.BenchmarkEvaluation",
    "checkpoint": "rence_lightning.callbacks.Checkpoint",
    "export": "rence_lightning.callbacks.ExportPolicy",
    "timing": "rence_lightning.callbacks.Timing",
    "report": "rence_lightning.callbacks.Report",
    "warmup": "rence_lightning.training.warmup.Warmup",
}
"""The keys at the top of a configuration that hold further keys, with their classes."""


class Setting(NamedTuple):
    """A key as its source declares it: its type, empty for a group of keys; its default, empty where it is required."""

    type: str
    default: str
    help: str


@cache
def declared() -> dict[str, Setting]:
    """All keys and groups of keys; `data.seed` is none, because it follows `seed_everything`."""
    seed = "Seed of the order of the prompts, of sampling and of all else that is random."
    start = "Checkpoint to resume from: `last`, `best`, a run directory or a checkpoint in one."
    found = {"seed_everything": Setting("int", "0", seed), "ckpt_path": Setting("str | null", "null", start)}
    for section, path in SECTIONS.items():
        module, kind = _find(*path.rsplit(".", 1))
        found |= _declared(module, kind, section, str(parse(ast.get_docstring(kind) or "").short_description))
    del found["data.seed"]
    return found


@cache
def keys() -> tuple[str, ...]:
    """All keys that take a value, with their dots."""
    return tuple(key for key, setting in declared().items() if setting.type)


@cache
def groups() -> frozenset[str]:
    """All that stands before a dot of a key: sections, and settings that are a class of fields, as `data.sampling`."""
    return frozenset(declared()) - frozenset(keys())


def key_hint(key: str) -> str:
    """The end of a message about a dotted key that does not exist: the one that was meant, if there is one like it."""
    key = key.replace(".init_args", "")
    section, by_name = ".".join(key.split(".")[:2]), {each.rpartition(".")[2]: each for each in reversed(keys())}
    near = nearest(key, keys(), cutoff=0.75) or nearest(section, [*keys(), *groups()], cutoff=0.75)
    near = near or by_name.get(nearest(key, by_name, cutoff=0.85) or "")
    return f" (did you mean {near}?)" if near is not None else ""


def _declared(module: str, kind: Any, key: str, title: str, given: Sequence[ast.keyword] = ()) -> dict[str, Setting]:
    """A group of keys, and the arguments of its class, which is in a module; `given` replace their defaults."""
    found = {key: Setting("", "", title.rstrip("."))}
    described = {each.arg_name: str(each.description) for each in parse(ast.get_docstring(kind) or "").params}
    replaced = {each.arg: each.value for each in given}
    for name, annotation, default in _arguments(kind):
        inner, hint, default = f"{key}.{name}", ast.unparse(annotation), replaced.get(name, default)
        where, fields = _find(module, hint)
        if isinstance(fields, ast.ClassDef) and fields.decorator_list and not fields.bases:  # a class of fields
            found |= _declared(where, fields, inner, described[name], getattr(default, "keywords", ()))
        else:
            hint = re.sub(r"\b[A-Z]\w+", lambda name: _resolved(module, name[0]), hint)
            text = ast.unparse(default) if default is not None else ""
            found[inner] = Setting(hint.replace("None", "null"), text.replace("None", "null"), described[name])
    return found


def _resolved(module: str, name: str) -> str:
    """The type that a name of a module stands for, such as the choices of a `Literal`."""
    found = _find(module, name)[1]
    return ast.unparse(found) if isinstance(found, ast.expr) else name


def _arguments(kind: Any) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """The arguments of a class with their types and defaults; of a dataclass its fields."""
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and kind.decorator_list:
            yield ast.unparse(node.target), node.annotation, node.value
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names, defaults = node.args.args[1:], node.args.defaults
            for name, default in zip(names, [*[None] * (len(names) - len(defaults)), *defaults], strict=True):
                yield name.arg, name.annotation or ast.Constant(None), default


def _find(module: str, name: str) -> tuple[str, Any]:
    """The module of this package in which a name is defined, and the class or value; None if it is not of it."""
    for node in _parsed(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return module, node.value
        if isinstance(node, ast.ImportFrom) and any((each.asname or each.name) == name for each in node.names):
            return _find(str(node.module), name) if str(node.module).startswith(PACKAGE.name) else (module, None)
    return module, None


@cache
def _parsed(module: str) -> ast.Module:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
