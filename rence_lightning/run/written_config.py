"""The configuration of a run as it is written to its directory, with files of problems that were given in Python."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

RUN_DIRECTORY = "<run directory>"
"""Placeholder for the run directory, which is not known before it is created, in paths of a configuration."""


def config_in(directory: Path, text: str) -> str:
    """A configuration with the path of the run directory in place of its placeholder."""
    if RUN_DIRECTORY not in text:
        return text
    comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    settings = _replaced(yaml.safe_load(text), str(directory.resolve()))
    return comments + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _replaced(node: Any, directory: str) -> Any:
    if isinstance(node, dict):
        return {name: _replaced(value, directory) for name, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, directory) for value in node]
    return node.replace(RUN_DIRECTORY, directory) if isinstance(node, str) else node


def write_problems(directory: Path, files: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Writes rows of problems to `problems/` in the run directory, as JSON Lines.

    Args:
        directory: Run directory.
        files: Rows by the name of their file.
    """
    for name, rows in files.items():
        file = directory / "problems" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
