"""The page: the contents of one run directory or several, for readers who did not make the runs."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Difference, EvaluatedProblem, compare
from rence_lightning.report import answers
from rence_lightning.report.checks import examine, verdict
from rence_lightning.report.curves import COLOURS, figures
from rence_lightning.report.run_record import RunRecord

LONGEST_TEXT = 6_000
"""Number of characters of a response that are shown; a longer one is shortened in the middle."""

PROBLEMS_SHOWN = 8
"""Number of problems of each benchmark whose responses are shown."""


def write_report(*run_dirs: Path, file: Path | None = None, at_end: bool = False) -> Path:
    """Writes the report of a run, or of several runs side by side.

    Args:
        run_dirs: Run directories of `fit` or `validate`; all others are compared with the first.
        file: File to write (default: `report.html` in the first run directory).
        at_end: Whether the run itself writes it, at its end.

    Returns:
        The file written.

    Raises:
        UserError: A folder is not a run directory, or the page cannot be written.
    """
    records = [RunRecord(path, at_end) for path in run_dirs]
    runs = {run.name: run for run in records}
    if len(runs) < len(records):
        runs = {str(run.path): run for run in records}
    file = file if file is not None else run_dirs[0] / "report.html"
    try:
        # Model output may contain lone surrogates, which cannot be encoded in UTF-8.
        file.write_text(render(runs), encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"report: {file} cannot be written ({error.strerror})") from error
    return file


def render(runs: Mapping[str, RunRecord]) -> str:
    """The HTML of the report of runs, given by name."""
    environment = Environment(
        loader=PackageLoader("rence_lightning.report", "."),
        autoescape=True,  # model output is text, even where it looks like HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shorten": _shorten, "correct": answers.correct}
    first, *others = runs.values()
    changes, not_compared = _changes(runs) if others else (first.changes(), "")
    pairs = {} if others else _pairs(first)
    last = [row for line in first.evaluations[-1:] for row in line["benchmarks"].values()]
    return environment.get_template("page.html.j2").render(
        runs={name: (run, examine(run)) for name, run in runs.items()},
        colours=COLOURS,
        answers=answers,
        verdict=verdict,
        changes=changes,
        not_compared=not_compared,
        figures=figures(runs),
        example=answers.example([pair for each in pairs.values() for pair in each]),
        problems=[(name, *pair) for name, each in pairs.items() for pair in each[:PROBLEMS_SHOWN]],
        groups=[] if others else list(_groups(first)),
        names_answers=any(first.values("rollouts/answered")) or any("answered" in row for row in last),
        settings={name: _settings_that_differ(first, run) for name, run in runs.items()},
    )


def _changes(runs: Mapping[str, RunRecord]) -> tuple[dict[str, Difference], str]:
    """The paired differences between the last evaluations of the first run and the others, and why some are missing."""
    (_, first), *others = ((name, run.samples(run.evaluated[-1] if run.evaluated else 0)) for name, run in runs.items())
    changes: dict[str, Difference] = {}
    missing = []
    for name, folder in others:
        try:
            changes |= {f"{name}: {benchmark}": change for benchmark, change in compare(first, folder).items()}
        except UserError as error:
            missing.append(str(error))
    return changes, "; ".join(missing)


def _settings_that_differ(first: RunRecord, other: RunRecord) -> str:
    before, after = first.config_yaml.splitlines(), other.config_yaml.splitlines()
    return "\n".join(list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:])


def _pairs(run: RunRecord) -> dict[str, list[tuple[EvaluatedProblem | None, EvaluatedProblem]]]:
    """By benchmark, its problems in the first and the last evaluation; those solved more or less often come first."""
    pairs: dict[str, list[tuple[EvaluatedProblem | None, EvaluatedProblem]]] = {}
    for benchmark in run.benchmarks:
        before, after = (run.samples(run.evaluated[at]).read(benchmark) for at in (0, -1))
        same = len(run.evaluated) == 1
        pairs[benchmark] = [(None if same else before.get(key), problem) for key, problem in after.items()]
        pairs[benchmark].sort(key=lambda pair: pair[0] is None or answers.correct(pair[0]) == answers.correct(pair[1]))
    return pairs


def _groups(run: RunRecord) -> Iterator[tuple[int, dict[str, Any]]]:
    """Iteration and first group of each outcome, from the first and the last logged iteration."""
    logged = list(run.rollout_files)
    for iteration in dict.fromkeys((*logged[:1], *logged[-1:])):
        examples = {group["outcome"]: group for group in reversed(list(run.groups(iteration)))}
        yield from ((iteration, examples[outcome]) for outcome in sorted(examples))


def _shorten(text: str) -> str:
    half, left_out = LONGEST_TEXT // 2, len(text) - LONGEST_TEXT
    return text if left_out <= 0 else f"{text[:half]}\n\n[... {left_out:,} characters ...]\n\n{text[-half:]}"
