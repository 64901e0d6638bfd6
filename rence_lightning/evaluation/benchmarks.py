"""The benchmarks: where each is on the hub, and how many problems it must have."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from rence_lightning.errors import UserError
from rence_lightning.prompts import HubProblems, Problem, ProblemSource


@dataclass(frozen=True)
class Benchmark:
    """A test set whose rows are known.

    Attributes:
        source: Makes its source on the hub.
        counts: The numbers of problems that are right; more than one where copies in use differ.
    """

    source: Callable[[], ProblemSource]
    counts: tuple[int, ...]


BENCHMARKS: dict[str, Benchmark] = {
    "math500": Benchmark(lambda: HubProblems("HuggingFaceH4/MATH-500", "test", id_field="unique_id"), (500,)),
    "aime2024": Benchmark(lambda: HubProblems("HuggingFaceH4/aime_2024", "train"), (30,)),
    "aime2025": Benchmark(lambda: HubProblems("math-ai/aime25", "test"), (30,)),
    # AMC 12 of 2022 and 2023; the 40 problems often called AMC23 are among them.
    "amc": Benchmark(lambda: HubProblems("AI-MO/aimo-validation-amc", "train"), (83,)),
    "minerva": Benchmark(lambda: HubProblems("math-ai/minervamath", "test", problem_field="question"), (272,)),
    # Open-ended, text-only, English, competition mathematics: 674 problems on the hub, 675 in older copies.
    "olympiadbench": Benchmark(
        lambda: HubProblems("math-ai/olympiadbench", "test", problem_field="question", answer_field="final_answer.0"),
        (674, 675),
    ),
    "gsm8k": Benchmark(
        lambda: HubProblems("openai/gsm8k", "test", "main", problem_field="question", answer_format="gsm8k"), (1319,)
    ),
}
"""The benchmarks that need no source, by name. The paper's six are all but GSM8K."""


def load_benchmark(name: str, source: ProblemSource | None = None) -> list[Problem]:
    """The problems of a benchmark.

    Args:
        name: What it is called in configurations, logs and tables.
        source: Where its problems are. None: the hub, for the names of `BENCHMARKS`.

    Raises:
        UserError: The name is unknown and no source is given, the data cannot be read, or the hub's copy has not the
            number of problems it is known to have (a score on other problems would not be comparable).
    """
    if source is not None:
        return source.load()
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(
            f"benchmark {name!r} is unknown{hint}; known are {', '.join(BENCHMARKS)}, and any other name with a source "
            "of its own"
        )
    benchmark = BENCHMARKS[name]
    problems = benchmark.source().load()
    if len(problems) not in benchmark.counts:
        expected = " or ".join(map(str, benchmark.counts))
        raise UserError(
            f"benchmark {name!r}: {problems[0].source} has {len(problems)} problems, not {expected}; it has changed on "
            "the hub, so give a source of your own: a file, or the hub's at a known revision"
        )
    return problems
