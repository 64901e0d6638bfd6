"""The recipes: for each configuration its command, the seeds to run it with, or what keeps it from being run."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rence_lightning.errors import UserError

HERE = Path(__file__).parent
RECIPES = HERE / "recipes.yaml"
PROGRAM = ["python", "-m", "rence_lightning"]


@dataclass(frozen=True)
class Recipe:
    """A configuration file and how it is run.

    Attributes:
        name: Name of the entry, which `--only` takes; several files may share it.
        file: Configuration file, from the root of the repository.
        command: Command as users type it.
        title: Name of the recipe in the table of README.
        seeds: Seeds to run the command with; none if it cannot be run on a CPU.
        which: Name of the command in the evidence, where the header shows several; empty otherwise.
        missing: Sentence on what has not been run, and what that needs; empty where nothing is missing.
        tested: Sentence on what tests run of the file, with the path of the test; empty for none.
        method: Method of benchmarks/study/study.yaml that this file is; empty for none.
    """

    name: str
    file: str
    command: str
    title: str = ""
    seeds: tuple[int, ...] = ()
    which: str = ""
    missing: str = ""
    tested: str = ""
    method: str = ""

    @property
    def arguments(self) -> list[str]:
        """The command's arguments, from `fit` on."""
        return shlex.split(self.command)[len(PROGRAM) :]


def load_recipes(path: Path = RECIPES) -> tuple[Recipe, ...]:
    """The recipes of a YAML file in their order; recipes.yaml explains its fields.

    Raises:
        UserError: The file cannot be read, a field is missing, unknown or of the wrong type, a configuration has two
            recipes, or a recipe has neither seeds nor a sentence on what it needs.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["recipes"]
        recipes = tuple(
            _recipe(name, file, entry, about or {}) for name, entry in entries.items() for file, about in _files(entry)
        )
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; see benchmarks/recipes/recipes.yaml") from error
    files = [recipe.file for recipe in recipes]
    for recipe in recipes:
        where = f"{path}: {recipe.name}, {recipe.file}"
        if files.count(recipe.file) > 1:
            raise UserError(f"{where}: the file has {files.count(recipe.file)} recipes; leave one of them")
        if not recipe.seeds and not recipe.missing:
            raise UserError(f"{where}: give seeds to run it with, or missing: what it needs")
        if recipe.seeds and not recipe.title:
            raise UserError(f"{where}: a recipe with seeds needs a title for the table of README")
        if recipe.seeds and shlex.split(recipe.command)[: len(PROGRAM)] != PROGRAM:
            raise UserError(f"{where}: the command must begin with {shlex.join(PROGRAM)}")
    return recipes


def _files(entry: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any] | None]]:
    return list(entry["files"].items())


def _recipe(name: str, file: str, entry: Mapping[str, Any], about: Mapping[str, Any]) -> Recipe:
    fields = {key: value for key, value in {**entry, **about}.items() if key != "files"}
    if not all(isinstance(seed, int) for seed in fields.get("seeds", ())):
        raise TypeError(f"{name}: seeds must be numbers")
    fields["seeds"] = tuple(fields.get("seeds", ()))
    command = fields["command"].format(file=file)
    shlex.split(command)  # raises ValueError where a quotation mark is not closed
    return Recipe(**{**fields, "name": name, "file": file, "command": command})
