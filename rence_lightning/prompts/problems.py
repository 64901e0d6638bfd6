"""Sources of problems with a final answer: a file, the hub, a list of rows."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.parts import Configurable, Problem
from rence_lightning.prompts.files import Rows, iter_file
from rence_lightning.prompts.rows import RowSchema, UnansweredError

_log = logging.getLogger(__name__)


class ProblemSource(Configurable, ABC):
    """A source of problems. To train on other data, write a subclass and name it in the configuration."""

    @abstractmethod
    def load(self) -> list[Problem]:
        """Reads all problems, in an order that is the same in every process and run.

        Returns:
            At least one problem; the ids are unique.

        Raises:
            UserError: The data cannot be read, or a row lacks a problem or an answer. The message names the file and
                the line or row, counted from 1.
        """


@dataclass
class FileProblems(RowSchema, ProblemSource):
    """Problems from a file on this machine.

    Args:
        path: A `.jsonl`, `.jsonl.gz`, `.csv` or `.parquet` file; text is UTF-8.
        source: Name of the data set in ids, logs and tables. None: the file's name without its suffix.
    """

    path: str
    source: str | None = field(default=None, kw_only=True)

    def load(self) -> list[Problem]:
        name = Path(self.path).name.removesuffix(".gz").rsplit(".", 1)[0]
        return _to_problems(iter_file(self.path), self.path, self, name if self.source is None else self.source)


@dataclass
class ListProblems(RowSchema, ProblemSource):
    """Problems from rows in memory, such as a list of dictionaries in a script.

    Args:
        rows: Rows with a problem and an answer each, and any further fields.
        source: Name of the data set in ids, logs and tables.
    """

    rows: Sequence[Mapping[str, Any]]
    source: str = field(default="problems", kw_only=True)

    def load(self) -> list[Problem]:
        for number, row in enumerate(self.rows, start=1):
            if not isinstance(row, Mapping):
                raise UserError(f"{self.source}, row {number}: {row!r:.60} instead of a dictionary with fields")
        return _to_problems(_numbered(self.rows, self.source), self.source, self, self.source)


@dataclass
class HubProblems(RowSchema, ProblemSource):
    """Problems from a data set on the Hugging Face hub, or from its local cache when offline.

    Args:
        name: Name of the data set on the hub, such as `HuggingFaceH4/MATH-500`.
        split: Name of its split; a slice such as `train[:100]` works too.
        config: Name of its configuration (subset) where it has several, or a list of names, to be joined.
        revision: Commit, tag or branch on the hub; name a commit so that the rows never change.
    """

    name: str
    split: str = "train"
    config: str | list[str] | None = None
    revision: str | None = field(default=None, kw_only=True)

    def load(self) -> list[Problem]:
        problems: list[Problem] = []
        for config in self.config if isinstance(self.config, list) else [self.config]:
            source = "/".join(part for part in (self.name, config, self.split) if part)
            problems += _to_problems(_numbered(self._download(config), source), source, self, source)
        return problems[: self.limit]

    def _download(self, config: str | None) -> Iterable[dict[str, Any]]:
        import datasets  # takes a second to import, and a run on local files does not need it

        try:
            return datasets.load_dataset(self.name, config, split=self.split, revision=self.revision)
        except Exception as error:  # the library passes on errors of httpx, pyarrow, fsspec, huggingface_hub
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"data set {self.name!r} (config {config}, split {self.split!r}) could not be loaded from the "
                f"hub: {reason[:300]}. Check the names and the network, or use a local copy: class_path: "
                "rence_lightning.prompts.FileProblems with init_args: path: FILE.jsonl"
            ) from error


def _plain(value: Any) -> Any:
    """A value with lists and dictionaries alone: pandas gives the lists of a parquet file as arrays of NumPy."""
    value = value.tolist() if getattr(value, "ndim", 0) else value
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _numbered(rows: Iterable[Mapping[str, Any]], source: str) -> Rows:
    return ((f"{source}, row {number}", number, _plain(row)) for number, row in enumerate(rows, start=1))


def _to_problems(rows: Rows, where: str, schema: RowSchema, source: str) -> list[Problem]:
    """The problems of rows, each of which comes with its place as text and its number."""
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    unanswered: list[str] = []
    others = 0  # rows that are in the other part of the data set
    for place, number, row in islice(rows, schema.limit):
        try:
            problem = schema.read(row, place, source, number)
        except UnansweredError:
            if not schema.skip_unanswered:
                raise
            unanswered.append(place)
            continue
        if problem is None:
            others += 1
        elif problem.id in problems:
            other = f"is also that of {places[problem.id]}"
            raise UserError(f"{place}: the id {problem.id!r} {other}; name another id_field, or '' for row numbers")
        else:
            problems[problem.id], places[problem.id] = problem, place
    if unanswered:
        _log.warning("%s: left out %d rows without a final answer: %s", source, len(unanswered), "; ".join(unanswered))
    if not problems and others:
        fix = f"give more rows, or another held_out than {schema.held_out}"
        raise UserError(f"{where}: none of {others} rows is in the part {schema.part!r}; {fix}")
    if not problems:
        raise UserError(f"{where}: no rows; give a data set with at least one problem")
    return list(problems.values())
