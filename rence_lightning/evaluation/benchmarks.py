"""The registry of benchmarks: location on the hub, fields, form of the answers, and number of problems of each."""

from dataclasses import dataclass, field
from typing import Any

from rence_lightning.errors import UserError, did_you_mean
from rence_lightning.prompts import FileProblems, HubProblems, Problem, ProblemSource
from rence_lightning.prompts.files import iter_file
from rence_lightning.prompts.rows import RowSchema


@dataclass(frozen=True)
class Benchmark:
    """A test set with known rows.

    Attributes:
        hub: Name of the data set on the hub.
        split: Split of the data set.
        counts: Accepted numbers of problems; more than one where the copies in use differ.
        config: Configuration of the data set.
        fields: Arguments of `HubProblems` that name the fields of problem, answer and id in the hub's rows.
        answers: Arguments of `HubProblems` and `FileProblems` that say how answers are read, in any copy.
    """

    hub: str
    split: str
    counts: tuple[int, ...]
    config: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)

    def on_hub(self) -> HubProblems:
        """The copy on the hub."""
        return HubProblems(self.hub, self.split, self.config, **self.fields, **self.answers)

    def in_file(self, path: str) -> FileProblems:
        """A copy in a local file, with the hub's fields or with `problem`, `answer` and optionally `id`."""
        schema = {"problem_field": "problem", "answer_field": "answer", "id_field": None, "answer_format": "plain"}
        row = next((row for _, _, row in iter_file(FileProblems(path).path)), {})
        fields = self.fields if RowSchema(**{**schema, **self.fields}).fits(row) else {}
        return FileProblems(path, **fields, **self.answers)


BENCHMARKS: dict[str, Benchmark] = {
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", (500,), fields={"id_field": "unique_id"}),
    "aime2024": Benchmark("HuggingFaceH4/aime_2024", "train", (30,)),
    "aime2025": Benchmark("math-ai/aime25", "test", (30,)),
    # AMC 12 of 2022 and 2023; the 40 problems often called AMC23 are among them.
    "amc": Benchmark("AI-MO/aimo-validation-amc", "train", (83,)),
    # Undergraduate science: answers are rounded as in a textbook, without the unit that the problem asks for.
    "minerva": Benchmark(
        "math-ai/minervamath", "test", (272,), fields={"problem_field": "question"}, answers={"rounded": True}
    ),
    # Open-ended, text-only, English, competition mathematics: 674 problems on the hub, 675 in older copies. Several
    # values of an answer are separated by commas; the unit, if any, is in a separate field.
    "olympiadbench": Benchmark(
        "math-ai/olympiadbench",
        "test",
        (674, 675),
        fields={"problem_field": "question", "answer_field": "final_answer.0"},
        answers={"tolerance_field": "error"},
    ),
    "gsm8k": Benchmark(
        "openai/gsm8k", "test", (1319,), "main", fields={"problem_field": "question", "answer_format": "gsm8k"}
    ),
}
"""The benchmarks that need no source, by name. The paper's six are all of them except GSM8K."""


class BenchmarkFile(ProblemSource):
    """A benchmark of the registry from a local file, for use without a network.

    Args:
        name: Name in the registry: `math500`, `aime2024`, `aime2025`, `amc`, `minerva`, `olympiadbench` or `gsm8k`.
        path: Path of a `.jsonl`, `.jsonl.gz` or `.parquet` file, with the hub's fields or with `problem` and `answer`.

    Raises:
        UserError: The name is not in the registry.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self._benchmark = _known(name)

    def load(self) -> list[Problem]:
        """Raises `UserError` if the file cannot be read, or does not have the benchmark's number of problems."""
        return _counted(self.name, self._benchmark, self._benchmark.in_file(self.path).load(), self.path)


def load_benchmark(name: str, source: ProblemSource | None = None) -> list[Problem]:
    """The problems of a benchmark.

    Args:
        name: Name of the benchmark in configurations, logs and tables.
        source: Source of the problems; None for the hub, where the name is in `BENCHMARKS`.

    Raises:
        UserError: The name is unknown and no source is given, the data cannot be read, or the copy on the hub does not
            have the expected number of problems (a score on different problems would not be comparable).
    """
    if source is not None:
        return source.load()
    benchmark = _known(name)
    return _counted(name, benchmark, benchmark.on_hub().load(), f"{benchmark.hub} on the hub")


def _known(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise UserError(
            f"benchmark {name!r} is unknown{did_you_mean(name.lower(), BENCHMARKS)}; known are "
            f"{', '.join(BENCHMARKS)}; any other name needs a source of its own"
        )
    return BENCHMARKS[name]


def _counted(name: str, benchmark: Benchmark, problems: list[Problem], where: str) -> list[Problem]:
    if len(problems) not in benchmark.counts:
        expected = " or ".join(map(str, benchmark.counts))
        raise UserError(
            f"benchmark {name!r}: {where} has {len(problems)} problems, not {expected}: it has changed, and a score on "
            "different problems is not comparable; give a source: a file, or the data set on the hub at a known "
            "revision"
        )
    return problems
