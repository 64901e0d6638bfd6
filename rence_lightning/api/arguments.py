"""The arguments of `fit`, `warmup` and `validate` as settings of a configuration, in which objects stand for parts."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rence_lightning.cli.declared import SECTIONS, key_hint
from rence_lightning.cli.keys import CLASSES, is_settings
from rence_lightning.cli.settings import Layer, check
from rence_lightning.errors import UserError, did_you_mean
from rence_lightning.parts import Configurable
from rence_lightning.prompts import FileProblems, ListProblems, ProblemSource
from rence_lightning.prompts.rows import RowSchema
from rence_lightning.rewards import FunctionReward, Reward

KEYS = {
    **{name: ("model", name) for name in ("policy", "objective")},
    **{name: ("data", name) for name in ("problems", "reward", "template", "filter", "engine")},
    **{name: ("trainer", name) for name in ("max_iterations", "run_dir", "callbacks", "loggers")},
    "benchmarks": ("evaluation", "benchmarks"),
    "learning_rate": ("model", "optimizer"),
}
"""The section and key of the arguments that are settings of a section."""

OTHERS = {"seed": "seed_everything", "ckpt_path": "ckpt_path", "held_out": "", "held_out_by": "", "config": ""}
"""The other arguments, some of which are keys without a section."""


def layer_of(call: str, given: Mapping[str, Any], configs: Sequence[Layer]) -> Layer:
    """The settings that the arguments of a call are.

    Args:
        call: Function that was called, for messages, such as `fit()`.
        given: Arguments by name, None for those that were not given, and sections.
        configs: Layers below, whose `trainer.run_dir` says where rows are written if the call does not.

    Raises:
        UserError: An argument is wrong.
    """
    given = {name: value for name, value in given.items() if value is not None}
    settings: dict[str, Any] = {OTHERS[name]: given[name] for name in ("seed", "ckpt_path") if name in given}
    for name in [name for name in given if name not in {**KEYS, **OTHERS}]:
        settings[name] = _section(call, name, given[name])
    if not configs and "policy" not in {**given, **settings.get("model", {})}:
        raise UserError(f"{call}: give policy and problems, or a config such as config='arithmetic'")
    for name, value in _parts(call, given).items():
        section, key = KEYS[name]
        if key in settings.setdefault(section, {}):
            raise UserError(f"{call}: {name} is given twice, by itself and as {section}[{key!r}]; remove one")
        settings[section][key] = value
    run_dirs = [each.get("trainer", {}).get("run_dir") for each in [*(each.settings for each in configs), settings]]
    run_dir = [each for each in run_dirs if each] or ["runs/rence"]
    layer = Layer(_as_settings(settings, Path(str(run_dir[-1])).expanduser().parent / "problems"), origin=call)
    check(layer)
    return layer


def _section(call: str, name: str, given: Any) -> dict[str, Any]:
    if name not in SECTIONS:
        hint = did_you_mean(name, [*KEYS, *OTHERS, *SECTIONS]) or key_hint(name)
        raise UserError(f"{call}: there is no argument or section {name!r}{hint}")
    if isinstance(given, Configurable) and type(given) is CLASSES[name]:
        return given.arguments()
    if not isinstance(given, Mapping):
        object_of = f", or an object of {CLASSES[name].__name__}" if issubclass(CLASSES[name], Configurable) else ""
        raise UserError(f"{call}: {name} is {given!r:.80}; give a dictionary of settings{object_of}")
    return dict(given)


def _parts(call: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with a function as a reward, text as a template, and problems and benchmarks as sources."""
    parts = {name: given[name] for name in KEYS if name in given}
    if isinstance(reward := given.get("reward"), list | tuple):
        raise UserError(f"{call}: reward is a list; give one, or a CombinedReward of several")
    for name, value in parts.items():
        if isinstance(value, type):
            raise UserError(f"{call}: {name} is the class {value.__name__}; give an object, {value.__name__}(...)")
    if callable(reward) and not isinstance(reward, Reward):
        parts["reward"] = FunctionReward(reward)
    if isinstance(template := given.get("template"), str):
        parts["template"] = {"text": template, "chat": None}
    if "learning_rate" in given:
        parts["learning_rate"] = {"init_args": {"lr": given["learning_rate"]}}
    if "problems" in given:
        parts["problems"] = _sources(call, "problems", given["problems"])
    benchmarks = given.get("benchmarks", {})
    if not isinstance(benchmarks, Mapping):
        benchmarks = dict.fromkeys([benchmarks] if isinstance(benchmarks, str) else benchmarks)
    named: dict[str, Any] = {}
    for name, source in benchmarks.items():
        sources = [None] if source is None else _sources(call, f"benchmarks[{name!r}]", source, str(name))
        if len(sources) != 1:
            raise UserError(f"{call}: a benchmark has one source of problems, not {len(sources)}")
        named[str(name)] = sources[0]
    if "held_out" in given or "held_out_by" in given:
        train, named["held_out"] = _split(call, parts.get("problems"), given)
        parts["problems"] = [train]
    return {**parts, "benchmarks": named} if named else parts


def _split(call: str, sources: list[Any] | None, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Problems to train on, and those that are held out."""
    if sources is None or "held_out" not in given:
        raise UserError(f"{call}: held_out is the share of the problems to hold out; give both of them")
    if len(sources) != 1 or not isinstance(sources[0], RowSchema):
        what = type(sources[0]).__name__ if len(sources) == 1 else f"{len(sources)} sources of problems"
        raise UserError(f"{call}: held_out cannot split {what}; give rows or a file, or the problems as benchmarks")
    settings = {"held_out": given["held_out"], "part_field": given.get("held_out_by")}
    source: Any = sources[0]
    return replace(source, part="train", **settings), replace(source, part="test", source="held_out", **settings)


def _sources(call: str, argument: str, given: Any, name: str = "problems") -> list[Any]:
    """Problems as sources of problems; rows are a data set of the given name."""
    if isinstance(given, str | Path):
        return [FileProblems(str(given))]
    if _is_source(given):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        shown = " ".join(repr(given).split())
        raise UserError(
            f"{call}: {argument} is {shown:.80}; give rows (one split of several), a path, or a ProblemSource"
        )
    items = list(given)
    if items and all(map(_is_source, items)):
        return items
    for item in items:
        if _is_source(item) or not isinstance(item, Mapping):
            raise UserError(
                f"{call}: {argument} holds {item!r:.80}; give dictionaries with 'problem' and 'answer' (of a pandas "
                "DataFrame: frame.to_dict('records')), or sources of problems alone"
            )
    return [ListProblems(items, source=name)] if items else []


def _is_source(given: Any) -> bool:
    return isinstance(given, ProblemSource) or (isinstance(given, Mapping) and "class_path" in given)


def _as_settings(value: Any, folder: Path) -> Any:
    """A value in which rows are files in a folder, and what needs no `class_path` is its settings."""
    if isinstance(value, Mapping):
        return {str(name): _as_settings(each, folder) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_settings(each, folder) for each in value]
    if type(value) is ListProblems and (path := _file_of(value, folder)) is not None:
        value = FileProblems(path, **{name: each for name, each in value.arguments().items() if name != "rows"})
    if type(value) is FileProblems:  # as settings, so that interpolations can refer to them
        return {"class_path": "rence_lightning.prompts.FileProblems", "init_args": value.arguments()}
    if is_settings(type(value)):
        return asdict(value)
    return str(value) if isinstance(value, Path) else value


def _file_of(problems: ListProblems, folder: Path) -> str | None:
    """The file that rows are written to, which is named by their content; None if JSON would change them."""
    try:
        problems.load()  # so that what is wrong in a row is said of the row, and not of the file
        rows = [dict(row) for row in problems.rows]
        lines = [json.dumps(row, allow_nan=False) for row in rows]
    except (TypeError, ValueError):
        return None
    if not rows or [json.loads(line) for line in lines] != rows:
        return None
    text = "\n".join(lines) + "\n"
    file = folder / f"{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.jsonl"
    try:
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}")
            part.write_text(text, encoding="utf-8")
            part.replace(file)  # other processes of the run write it too
    except OSError:  # nor can the run directory be created beside it, which is said
        return None
    return str(file.resolve())
