"""Objects in the place of settings: what Python code gives to a run, which the command line builds."""

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from rence_lightning.prompts import ListProblems
from rence_lightning.run.written_config import RUN_DIRECTORY

Rows = Sequence[Mapping[str, Any]]


def put_objects(settings: Any, objects: Mapping[tuple[str | int, ...], Any]) -> None:
    """Puts objects in the place of their settings, by the way to these through sections, parts and lists."""
    for (*way, last), part in objects.items():
        node = settings
        for name in way:
            node = node[name]
        node[last] = part


def put_rows(node: Any, files: Mapping[str, Rows]) -> Any:
    """Settings in which rows stand for the files of the run directory that will hold them.

    Settings may name such a file by interpolation, for another part of the same rows.

    Args:
        node: Settings, which are changed.
        files: Rows by the name of their file.
    """
    if isinstance(node, Namespace) and isinstance(arguments := node.get("init_args"), Namespace):
        path = arguments.get("path")
        if isinstance(path, str) and path.startswith(RUN_DIRECTORY):
            file = path.rpartition("/")[2]
            others = {name: value for name, value in vars(arguments).items() if name != "path"}
            others["source"] = others["source"] or file.removesuffix(".jsonl")  # the name that the file has by itself
            return ListProblems(files[file], **others)
    items: Any = ()
    if isinstance(node, Namespace):
        items = vars(node).items()
    elif isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in list(items):
        if isinstance(value, Namespace | dict | list):
            changed = put_rows(value, files)
            if changed is not value:
                node[name] = changed
    return node
