"""Data sets of problems with a final answer: what a row is, and where rows come from (a file, the hub)."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.prompts.rows import AnswerFormat, RowSchema, UnansweredError, iter_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One row of a data set, in the project's one form.

    Attributes:
        id: Unique within its source and stable from run to run: caches, logs and checkpoints refer to it.
        problem: The problem's text alone, without instructions or template.
        answer: The final answer alone, never empty.
        source: Name of the data set.
    """

    id: str
    problem: str
    answer: str
    source: str = ""


class ProblemSource(ABC):
    """Where problems come from; subclass it and name the class in a configuration to train on other data."""

    @abstractmethod
    def load(self) -> list[Problem]:
        """Read all problems, in an order that is the same in every process and run.

        Returns:
            At least one problem; ids are unique.

        Raises:
            UserError: The data cannot be read, or a row lacks a problem or an answer.
        """


class FileProblems(ProblemSource):
    """Problems from a file on this machine.

    Field names may be paths into nested values, with positions in lists: `reward_model.ground_truth`,
    `prompt.0.content`.

    Args:
        path: A `.jsonl`, `.jsonl.gz` or `.parquet` file; JSON lines are UTF-8.
        problem_field: The field with the problem's text.
        answer_field: The field with the answer, in the form `answer_format` says.
        id_field: The field with the id. None: the field `id` where a row has one, else `<source>/<row number>`.
        limit: Read only the first rows, this many.
        answer_format: `plain`: the field is the final answer. `boxed`: a solution whose last `\\boxed{}` is the answer
            (MATH). `gsm8k`: a solution that ends in `#### 12`.
        strip_prefix: Text before the problem, such as another project's instructions, taken off every row; a row that
            does not begin with it is an error.
        strip_suffix: The same for text after the problem.
        skip_unanswered: Leave out rows without a final answer, with a warning that counts them; otherwise such a row is
            an error.
        tolerance_field: The field with the absolute error that an answer may have, where a row has one. The answer is
            then written `4.2 \\pm 0.1`, which is how the grader reads it.
        rounded: Answers with a decimal point or an exponent are rounded ones: what rounds to one is right. They are
            written with half a unit of their last digit as the error, `1.6 \\pm 0.05`, at most 5% of the number.
        source: Name of the data set in ids, logs and tables. None: the file's name without its suffix.
    """

    def __init__(
        self,
        path: str,
        problem_field: str = "problem",
        answer_field: str = "answer",
        id_field: str | None = None,
        limit: int | None = None,
        answer_format: AnswerFormat = "plain",
        strip_prefix: str = "",
        strip_suffix: str = "",
        skip_unanswered: bool = False,
        tolerance_field: str | None = None,
        rounded: bool = False,
        source: str | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.limit = _checked_limit(limit, str(path))
        self.skip_unanswered = skip_unanswered
        self.schema = RowSchema(
            problem_field,
            answer_field,
            id_field,
            answer_format,
            strip_prefix,
            strip_suffix,
            tolerance_field,
            rounded,
        )
        self.source = source if source is not None else self.path.name.removesuffix(".gz").rsplit(".", 1)[0]

    def load(self) -> list[Problem]:
        """Read the file.

        Raises:
            UserError: With the file and the line (of JSON lines) or row (of parquet), both counted from 1.
        """
        return _to_problems(
            iter_file(self.path), str(self.path), self.schema, self.source, self.limit, self.skip_unanswered
        )


class HubProblems(ProblemSource):
    """Problems from a data set on the Hugging Face hub, or from its local cache when offline.

    Args:
        name: The data set's name on the hub, such as `HuggingFaceH4/MATH-500`.
        split: Its split; a slice such as `train[:100]` works too.
        config: Its configuration (subset) where it has several, or a list of them, to be joined.
        problem_field: The field with the problem's text; may be a path such as `prompt.0.content`.
        answer_field: The field with the answer, in the form `answer_format` says; may be a path.
        id_field: The field with the id. None: the field `id` where a row has one, else `<source>/<row number>`.
        revision: Commit, tag or branch on the hub; name a commit to read the same rows for ever.
        limit: Read only the first rows, this many.
        answer_format: `plain`: the field is the final answer. `boxed`: a solution whose last `\\boxed{}` is the answer
            (MATH). `gsm8k`: a solution that ends in `#### 12`.
        strip_prefix: Text before the problem, such as another project's instructions, taken off every row; a row that
            does not begin with it is an error.
        strip_suffix: The same for text after the problem.
        skip_unanswered: Leave out rows without a final answer, with a warning that counts them; otherwise such a row is
            an error.
        tolerance_field: The field with the absolute error that an answer may have, where a row has one. The answer is
            then written `4.2 \\pm 0.1`, which is how the grader reads it.
        rounded: Answers with a decimal point or an exponent are rounded ones: what rounds to one is right. They are
            written with half a unit of their last digit as the error, `1.6 \\pm 0.05`, at most 5% of the number.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        config: str | list[str] | None = None,
        problem_field: str = "problem",
        answer_field: str = "answer",
        id_field: str | None = None,
        revision: str | None = None,
        limit: int | None = None,
        answer_format: AnswerFormat = "plain",
        strip_prefix: str = "",
        strip_suffix: str = "",
        skip_unanswered: bool = False,
        tolerance_field: str | None = None,
        rounded: bool = False,
    ) -> None:
        self.name = name
        self.split = split
        self.configs = config if isinstance(config, list) else [config]
        self.revision = revision
        self.limit = _checked_limit(limit, name)
        self.skip_unanswered = skip_unanswered
        self.schema = RowSchema(
            problem_field,
            answer_field,
            id_field,
            answer_format,
            strip_prefix,
            strip_suffix,
            tolerance_field,
            rounded,
        )

    def load(self) -> list[Problem]:
        """Download the split, or read it from the cache.

        Raises:
            UserError: The hub cannot be reached, does not know the name, configuration, split or revision, or a row
                (counted from 1) lacks a problem or an answer.
        """
        problems: list[Problem] = []
        for config in self.configs:
            source = "/".join(part for part in (self.name, config, self.split) if part)
            rows = enumerate(self._download(config), start=1)
            places = ((f"{source}, row {number}", number, row) for number, row in rows)
            problems += _to_problems(places, source, self.schema, source, self.limit, self.skip_unanswered)
        return problems[: self.limit]

    def _download(self, config: str | None) -> Iterable[dict[str, Any]]:
        import datasets  # takes a second to import, which a run on local files need not pay

        try:
            return datasets.load_dataset(self.name, config, split=self.split, revision=self.revision)
        except Exception as error:  # the library lets errors of many others through: httpx, pyarrow, fsspec, the hub's
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"data set {self.name!r} (config {config}, split {self.split!r}) could not be loaded from the "
                f"hub: {reason[:300]}. Check the names and the network, or use a local copy: class_path: "
                "rence_lightning.prompts.FileProblems with init_args: path: FILE.jsonl"
            ) from error


def _checked_limit(limit: int | None, where: str) -> int | None:
    if limit is not None and limit < 1:
        raise UserError(f"{where}: limit must be at least 1, or null for all rows, not {limit}")
    return limit


def _to_problems(
    rows: Iterable[tuple[str, int, dict[str, Any]]],
    where: str,
    schema: RowSchema,
    source: str,
    limit: int | None,
    skip_unanswered: bool,
) -> list[Problem]:
    """Parse rows, each with the words that say where it stands and its number."""
    problems: list[Problem] = []
    unanswered: list[str] = []
    seen: dict[str, str] = {}
    for place, number, row in islice(rows, limit):
        problem = schema.problem(row, place)
        try:
            answer = schema.answer(row, place)
        except UnansweredError:
            if not skip_unanswered:
                raise
            unanswered.append(place)
            continue
        identifier = schema.identifier(row, place, source, number)
        if identifier in seen:
            raise UserError(
                f"{place}: the id {identifier!r} is also that of {seen[identifier]}; make ids unique, or name another "
                "id_field"
            )
        seen[identifier] = place
        problems.append(Problem(identifier, problem, answer, source))
    if unanswered:
        _log.warning("%s: left out %d rows without a final answer: %s", source, len(unanswered), "; ".join(unanswered))
    if not problems:
        raise UserError(f"{where}: no rows; give a data set with at least one problem")
    return problems
