"""One configuration from the layers of a command line or call: later ones override earlier ones key by key."""

import inspect
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rence_lightning.cli.declared import groups, keys
from rence_lightning.cli.keys import bases, find_class, fitting_classes, holds_keys, key_type
from rence_lightning.cli.settings import Layer, Settings
from rence_lightning.cli.written import GIVEN_IN_PYTHON, import_path
from rence_lightning.errors import UserError
from rence_lightning.parts import Configurable


def merged(settings: Settings, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all layers, without interpolations; each key that has no default is given.

    Args:
        settings: Layers of settings with keys that exist, in which objects may stand for parts.
        defaults: Values that interpolations find where no layer gives one.

    Raises:
        UserError: A key is missing, or an interpolation leads nowhere.
    """
    given: dict[str, Any] = {}
    for layer in settings.layers:
        if layer.option:
            _put(given, layer)
        else:
            for key, value in layer.settings.items():  # a key at the top may be written with its dots
                given = _laid(given, reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value))
    required = (("model", "policy"), ("data", "problems"))
    if missing := [f"{section}.{name}" for section, name in required if given.get(section, {}).get(name) is None]:
        names = ", ".join(missing)
        raise UserError(f"missing: {names} (give a --config, for example --config arithmetic, or options)")
    try:
        root = OmegaConf.create(_plain(_laid(dict(defaults), given), settings))
        return {key: _read(value, root, key) for key, value in given.items()}
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        raise UserError(f"{settings.where(key)}{key}: {str(error.msg or error).splitlines()[0]}") from error


def _put(given: dict[str, Any], layer: Layer) -> None:
    """Sets what an option names: a key, or a setting in the part or mapping at a key."""
    option, appends = layer.option.removesuffix("+"), layer.option.endswith("+")
    key = next(key for key in keys() if option == key or option.startswith(f"{key}."))
    value, rest = layer.settings, option[len(key) + 1 :].split(".") if option != key else []
    *sections, name = key.split(".")
    node = given
    for section in sections:
        node = node.setdefault(section, {})
    if appends:
        value = [*(node.get(name) or []), *(value if isinstance(value, list) else [value])]
    if not rest:
        value = _as_part(value, key, node.get(name))
    old = node.get(name)
    node[name] = _by_name(_set_within(old, rest, value, not holds_keys(key_type(key))), key, old)


def _set_within(old: Any, way: Sequence[str], value: Any, is_part: bool) -> Any:
    """A value in which the setting at the end of a way has changed; the way may leave `init_args` out."""
    if not way:
        return _replaced(old, value)
    if isinstance(old, list) and old and not way[0].isdigit():  # of a list, the item that was appended last
        return [*old[:-1], _set_within(old[-1], way, value, True)]
    if is_part and way[0] not in ("class_path", "init_args"):
        way = ("init_args", *way)
    if isinstance(old, str):
        old = {"class_path": old}
    old = old if isinstance(old, Mapping) else {}
    name, *rest = way
    if name == "class_path":
        return _replaced(old, {"class_path": value})
    inner = old.get(name)
    return {**old, name: _set_within(inner, rest, value, isinstance(inner, Mapping) and "class_path" in inner)}


def _laid(base: Mapping[str, Any], over: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Settings with others on top of them."""
    result = dict(base)
    for name, value in over.items():
        key = f"{section}.{name}" if section else str(name)
        if key in groups():
            result[name] = _laid(base.get(name, {}), value, key)
        else:
            old = base.get(name)
            result[name] = _by_name(_replaced(old, _as_part(value, key, old)), key, old)
    return result


def _by_name(value: Any, key: str, old: Any) -> Any:
    """Benchmarks by name: one that is named alone, or as its own source, has the source that it had, or none."""
    if not any(get_origin(each) is dict for each in get_args(key_type(key))):
        return value
    if isinstance(value, str) and "${" not in value:
        value = [value]
    before = old if isinstance(old, Mapping) else {}
    if isinstance(value, list):
        if not all(isinstance(name, str) for name in value):
            raise UserError(f"{key}: give names, or a mapping such as math500: {{class_path: ...}}")
        return {name: before.get(name) for name in value}
    return {n: None if source == n else source for n, source in value.items()} if isinstance(value, Mapping) else value


def _as_part(value: Any, key: str, old: Any) -> Any:
    """Settings of a part whose class goes without saying, with `init_args` and, if only one is possible, its class."""
    name = value.get("class_path") if isinstance(value, Mapping) else value
    kind = fitting_classes(key).get(name) if isinstance(name, str) else None
    if kind is not None:  # as an import path, because the parser finds no class of a protocol by its name
        return import_path(kind) if name is value else {**value, "class_path": import_path(kind)}
    if not isinstance(value, Mapping) or _is_part(value) or holds_keys(key_type(key)):
        return value
    classes = [kind for kind in bases(key_type(key)) if issubclass(kind, Configurable)]
    if _is_part(old) or not classes or inspect.isabstract(classes[0]):
        return {"init_args": value}
    return {"class_path": import_path(classes[0]), "init_args": value}


def _replaced(old: Any, new: Any) -> Any:
    """A value in place of an older one. A part keeps the settings that it had, if its class still takes them."""
    if isinstance(new, str) and _is_part(old) and inspect.isclass(find_class(new)):
        new = {"class_path": new}
    if not _is_part(new):
        return new
    if isinstance(old, str):
        old = {"class_path": old}
    if not _is_part(old):
        return new
    kept, kind = dict(old.get("init_args") or {}), find_class(new.get("class_path"))
    if kind is not None and kind is not find_class(old.get("class_path")):
        kept = {name: value for name, value in kept.items() if name in inspect.signature(kind).parameters}
    inner = new.get("init_args") or {}
    if not isinstance(inner, Mapping):
        return new
    return {**old, **new, "init_args": {**kept, **{name: _replaced(kept.get(name), inner[name]) for name in inner}}}


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and ("class_path" in value or "init_args" in value)


def _plain(value: Any, settings: Settings, key: str = "") -> Any:
    """A value as OmegaConf can hold it: without objects, which interpolations cannot name.

    Raises:
        UserError: It has a part that was given in Python and has no name.
    """
    if isinstance(value, Mapping | list | tuple):
        names = value if isinstance(value, Mapping) else range(len(value))
        keys = {name: key if name == "init_args" else f"{key}.{name}".lstrip(".") for name in names}
        plain = [_plain(value[name], settings, inner) for name, inner in keys.items()]
        return dict(zip(map(str, keys), plain, strict=True)) if isinstance(value, Mapping) else plain
    if isinstance(value, str) and value.startswith(GIVEN_IN_PYTHON):
        what = value.removeprefix(GIVEN_IN_PYTHON)
        raise UserError(f"{settings.where(key)}{key}: the run was given{what}, or run the Python code again")
    return value if isinstance(value, bool | int | float | str) else None


def _read(value: Any, node: Any, name: Any) -> Any:
    """A value, of which OmegaConf has a copy in a node under a name, with the results of interpolations."""
    if isinstance(value, str) and "${" in value:
        found = node[name]
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    if isinstance(value, Mapping):
        return {key: _read(each, node[name], str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_read(each, node[name], index) for index, each in enumerate(value)]
    return value
