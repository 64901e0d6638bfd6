"""Python values as JSON and back, where plain JSON would lose their types."""

from typing import Any

_TUPLE, _PAIRS = "__tuple__", "__pairs__"


def to_json(value: Any) -> Any:
    """A value that JSON can hold, from which `from_json` restores the original.

    A tuple becomes `{"__tuple__": [...]}`, and a dictionary with keys that are not text `{"__pairs__": [[key, value],
    ...]}`. Numbers and text of NumPy become those of Python.

    Raises:
        TypeError: A part of the value is none of these: None, truth value, number, text, list, tuple, dictionary.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple):
        return {_TUPLE: [to_json(each) for each in value]}
    if isinstance(value, list):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not value.keys() & {_TUPLE, _PAIRS}:
            return {str(key): to_json(each) for key, each in value.items()}
        return {_PAIRS: [[to_json(key), to_json(each)] for key, each in value.items()]}
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a number or a text of NumPy
        return to_json(value.item())
    for plain in (str, bool, int, float):
        if isinstance(value, plain):
            return plain(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def from_json(value: Any) -> Any:
    """The value that `to_json` wrote."""
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if isinstance(value, dict):
        if value.keys() == {_TUPLE}:
            return tuple(from_json(each) for each in value[_TUPLE])
        if value.keys() == {_PAIRS}:
            return {from_json(key): from_json(each) for key, each in value[_PAIRS]}
        return {key: from_json(each) for key, each in value.items()}
    return value
