"""The page: the contents of one run directory or several, for readers who did not make the runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rence_lightning.errors import UserError
from rence_lightning.evaluation import EvaluatedProblem, SampleFolder, find_samples
from rence_lightning.report import answers
from rence_lightning.report.checks import examine, verdict
from rence_lightning.report.curves import COLOURS, figures, sample_line
from rence_lightning.report.overview import overview, upright
from rence_lightning.report.run_record import RunRecord

LONGEST_TEXT = 6_000
"""Number of characters of a response that are shown; a longer one is shortened in the middle."""

PROBLEMS_SHOWN = 8
"""Number of problems of each benchmark whose responses are shown."""


def write_report(*run_dirs: Path, file: str | Path | None = None, at_end: bool = False) -> Path:
    """Writes the report of a run, or of several runs side by side.

    Args:
        run_dirs: Run directories of `fit` or `validate`; those that differ in their seeds alone are taken together, and
            all other settings are compared with the first.
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
    file = Path(file or run_dirs[0] / "report.html")
    try:
        # Model output may contain lone surrogates, which cannot be encoded in UTF-8.
        file.write_text(render(runs), encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"report: {file} cannot be written ({error.strerror})") from error
    return file


def render(runs: Mapping[str, RunRecord]) -> str:
    """The HTML of the report of runs, given by name."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # `compare` needs none

    environment = Environment(
        loader=PackageLoader("rence_lightning.report", "."),
        autoescape=True,  # model output is text, even where it looks like HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shorten": _shorten, "correct": answers.correct}
    first, *others = runs.values()
    findings = {name: examine(run) for name, run in runs.items()}
    compared = overview({name: (run.config_yaml, _samples(run)) for name, run in runs.items()}) if others else None
    settings, table, changes, missing = compared or ([], [], first.changes(), [])
    for number, (setting, row) in enumerate(zip(settings, table[1:], strict=True)):
        row[0] = sample_line(number) + row[0]
        row.append(", ".join(dict.fromkeys(findings[name][0].level.name for name in setting.seeds if findings[name])))
    pairs = {} if others else _pairs(first)
    last = [row for line in first.evaluations[-1:] for row in line["benchmarks"].values()]
    return environment.get_template("page.html.j2").render(
        runs={name: (run, findings[name]) for name, run in runs.items()},
        colours=COLOURS,
        answers=answers,
        verdict=verdict,
        settings=settings,
        table=upright([[*table[0], "health"], *table[1:]]) if table else [],
        changes=changes,
        not_compared="; ".join(missing),
        figures=figures({each.label: [runs[name] for name in each.seeds] for each in settings} or {"": [first]}),
        example=answers.example([pair for each in pairs.values() for pair in each]),
        problems=[(name, *pair) for name, each in pairs.items() for pair in each[:PROBLEMS_SHOWN]],
        groups=[] if others else list(_groups(first)),
        names_answers=any(first.values("rollouts/answered")) or any("answered" in row for row in last),
    )


def _samples(run: RunRecord) -> SampleFolder:
    """The samples of the run's last evaluation, in a folder that does not exist where there are none."""
    try:
        return run.samples(run.evaluated[-1]) if run.evaluated else find_samples(run.path)
    except UserError:
        return run.samples(0)


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
