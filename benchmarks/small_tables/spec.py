"""The specification of the experiment: the rows of `tables.yaml`, and which of them are the same method."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rence_lightning.errors import UserError


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table.

    Attributes:
        name: Name of the row in the paper.
        config: Configuration file of the row, in conf/paper/.
        paper: Average over six benchmarks that the paper reports, in percent.
        options: Dotted keys and values that the small scale needs in addition to the overlay.
        validate: Whether to train nothing and only evaluate the policy that the other rows start from.
    """

    name: str
    config: str
    paper: float
    options: dict[str, Any] = field(default_factory=dict)
    validate: bool = False


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Spec:
    """Specification of the experiment; `tables.yaml` explains each field."""

    base: str
    overlay: str
    rollouts: int
    learning_rates: tuple[float, ...]
    extend: int
    selection_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    tables: tuple[Table, ...]

    def arguments(self, row: Row) -> list[str]:
        """The command-line arguments of a row: its files and options, without learning rate, seed and run directory."""
        budget = {"class_path": "rence_lightning.callbacks.RolloutBudget", "init_args": {"responses": self.rollouts}}
        return [
            *(f"--config={file}" for file in (self.base, row.config, self.overlay)),
            f"--trainer.callbacks={json.dumps([budget])}",
            *(f"--{key}={value}" for key, value in row.options.items()),
        ]


@dataclass(frozen=True)
class Method:
    """One or more rows with the same complete configuration, which share their runs.

    Attributes:
        name: Name of the first row of the method.
        key: Name of the method's folder.
        arguments: Command-line arguments of the method, from `Spec.arguments`.
        trained: Whether the method is trained; false for the row that is only evaluated.
        repeats: Number of samples per problem in evaluations; 0 if it is not known.
        limit: Largest number of problems of a split in evaluations; None for all.
    """

    name: str
    key: str
    arguments: tuple[str, ...]
    trained: bool
    repeats: int = 0
    limit: int | None = None


def load_spec(path: Path) -> Spec:
    """Reads a specification.

    Raises:
        UserError: The file cannot be read, lacks a field or has an unknown one.
    """
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        tables = tuple(Table(table["title"], tuple(Row(**row) for row in table["rows"])) for table in text["tables"])
        lists = {key: tuple(text[key]) for key in ("learning_rates", "selection_seeds", "seeds")}
        spec = Spec(**{**text, **lists, "tables": tables})
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; see benchmarks/small_tables/tables.yaml") from error
    if not spec.seeds or not spec.selection_seeds or len(spec.learning_rates) < 2:
        raise UserError(f"{path}: seeds and selection_seeds must not be empty; give at least two learning_rates")
    return spec


def find_methods(spec: Spec, tables: Sequence[Table], workers: Executor) -> dict[Row, Method]:
    """The method of each row. Rows are the same method if their complete configurations agree up to `run_dir`."""
    rows = [row for table in tables for row in table.rows]
    configs = list(workers.map(lambda row: complete_config(spec.arguments(row)), rows))
    methods: dict[str, Method] = {}
    chosen: dict[Row, Method] = {}
    for row, config in zip(rows, configs, strict=True):
        config["trainer"].pop("run_dir")
        trained = not row.validate
        digest = hashlib.blake2b(json.dumps([trained, config], sort_keys=True).encode(), digest_size=8).hexdigest()
        if digest not in methods:
            key = Path(row.config).stem
            if any(method.key == key for method in methods.values()):
                key += f"-{digest}"  # the same file with other options needs another folder
            evaluation = config["evaluation"]
            methods[digest] = Method(
                row.name, key, tuple(spec.arguments(row)), trained, evaluation["repeats"], evaluation["limit"]
            )
        chosen[row] = methods[digest]
    return chosen


def complete_config(arguments: Sequence[str]) -> dict[str, Any]:
    """The complete configuration, as `--print_config` prints it.

    Raises:
        UserError: The configuration is invalid.
    """
    command = [sys.executable, "-m", "rence_lightning", "fit", *arguments, "--print_config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    config: dict[str, Any] = yaml.safe_load(done.stdout)
    return config
