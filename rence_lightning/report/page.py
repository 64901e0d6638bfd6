"""The report page: the contents of a run directory, for readers who did not make the run."""

import base64
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Difference, EvaluatedProblem, compare
from rence_lightning.evaluation.comparison import MACRO
from rence_lightning.report.figures import OUTCOMES, Plot, curves, distributions, evaluation_curve, every_plot, outcomes
from rence_lightning.report.run_record import RunRecord

REPORT = "report.html"
LONGEST_TEXT = 6_000
"""Number of characters of a response that are shown; a longer one is shortened in the middle."""

PROBLEMS_SHOWN = 6
"""Number of problems of each kind whose samples are shown, for each benchmark."""


def write_report(run_dir: Path, file: Path | None = None) -> Path:
    """Write the report of a run.

    Args:
        run_dir: Run directory of `fit` or of `validate`.
        file: File to write (default: `report.html` in the run directory).

    Returns:
        The file written.

    Raises:
        UserError: `run_dir` is not a run directory, or the page cannot be written.
    """
    page = render(RunRecord(run_dir))
    file = file if file is not None else run_dir / REPORT
    try:
        # Model output may contain lone surrogates, which cannot be encoded in UTF-8.
        file.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"report: {file} cannot be written ({error.strerror})") from error
    return file


def render(run: RunRecord) -> str:
    """The HTML of the report."""
    environment = Environment(
        loader=PackageLoader("rence_lightning.report", "."),
        autoescape=True,  # model output is text, even where it looks like HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "shorten": _shorten, "image": _image}
    first, last = (run.evaluations[0], run.evaluations[-1]) if run.evaluations else (None, None)
    trained = last is not None and first is not None and first["iteration"] != last["iteration"]
    differences = _differences(run) if trained else {}
    return environment.get_template("page.html.j2").render(
        run=run,
        facts=_facts(run),
        summary=_summary(run, differences),
        first=first,
        last=last,
        trained=trained,
        differences=differences,
        results=every_plot([evaluation_curve(run)]),
        outcomes=every_plot([outcomes(run)]),
        curves=curves(run),
        distributions=distributions(run),
        comparisons=[comparison for name in run.benchmarks for comparison in _comparisons(run, name)],
        groups=_groups(run),
        outcome_names={outcome: name for outcome, (name, _) in OUTCOMES.items()},
    )


def _facts(run: RunRecord) -> dict[str, str]:
    """The main settings and sizes of the run, by name."""
    objective = run.setting("model.objective.class_path")
    facts = {
        "policy": run.setting("model.policy"),
        "objective": str(objective).rpartition(".")[2] if objective else None,
        "iterations": f"{run.iterations} of {run.setting('trainer.max_iterations') or '?'}" if run.iterations else None,
        "updates": run.updates or None,
        "group size (K)": run.setting("data.group_size") if run.iterations else None,
        "prompts per iteration (B)": run.setting("data.prompts_per_iteration") if run.iterations else None,
        "training prompts": run.training_problems.get("kept"),
        "seed": run.setting("seed_everything"),
    }
    if run.evaluations:
        facts["evaluation"] = (
            f"{run.setting('evaluation.repeats') or '?'} samples per problem at temperature "
            f"{run.setting('evaluation.sampling.temperature')}"
        )
    return {name: str(value) for name, value in facts.items() if value is not None}


def _summary(run: RunRecord, differences: Mapping[str, Difference]) -> str:
    """The result of training in one sentence; empty where there are not two evaluations to compare."""
    if not run.iterations or len(run.evaluations) < 2:
        return ""
    first, last = run.evaluations[0], run.evaluations[-1]
    name = run.benchmarks[0] if len(run.benchmarks) == 1 else MACRO
    what = f"on {name}" if len(run.benchmarks) == 1 else f"on the average of {len(run.benchmarks)} benchmarks"
    sentence = (
        f"In {last['iteration']} iterations of training, accuracy {what} went from {_percent(first['average'])}% to "
        f"{_percent(last['average'])}%"
    )
    if name in differences:
        low, high = _percent(differences[name].low, sign=True), _percent(differences[name].high, sign=True)
        sentence += f" (95% interval of the difference: {low} to {high} points)"
    return sentence + "."


def _differences(run: RunRecord) -> Mapping[str, Difference]:
    """The differences between the first and the last evaluation; empty where samples are missing."""
    first, last = (run.sample_folder(run.evaluations[which]["iteration"]) for which in (0, -1))
    try:
        return compare(first, last)
    except UserError:  # samples were removed, or the benchmarks changed during the run
        return {}


@dataclass(frozen=True)
class Comparison:
    """Problems of a benchmark with the same change from the first to the last evaluation.

    Attributes:
        benchmark: Name of the benchmark.
        change: Description of the change, such as "solved more often than before".
        count: Number of such problems, of which `problems` may be the first few.
        problems: Samples of each problem in the first and in the last evaluation; None for the first where there is
            only one evaluation.
    """

    benchmark: str
    change: str
    count: int
    problems: list[tuple[EvaluatedProblem | None, EvaluatedProblem]]


def _comparisons(run: RunRecord, benchmark: str) -> list[Comparison]:
    before = run.samples(run.evaluations[0]["iteration"], benchmark)
    after = run.samples(run.evaluations[-1]["iteration"], benchmark)
    if len(run.evaluations) == 1 or not before:
        before = {}
    changes: dict[str, list[tuple[EvaluatedProblem | None, EvaluatedProblem]]] = {}
    for key, row in after.items():
        pair = (before.get(key), row)
        changes.setdefault(_change(*pair), []).append(pair)
    return [
        Comparison(benchmark, change, len(changes[change]), changes[change][:PROBLEMS_SHOWN])
        for change in sorted(changes, key=_CHANGES.index)
    ]


_BETTER, _WORSE = "solved more often than before", "solved less often than before"
_NEVER, _STILL, _OFTEN = "never solved", "solved sometimes, as often as before", "solved every time, as before"
_CHANGES = [_BETTER, _WORSE, _NEVER, _STILL, _OFTEN, "solved sometimes", "solved every time"]


def _change(before: EvaluatedProblem | None, after: EvaluatedProblem) -> str:
    now = fmean(sample.correct for sample in after.samples)
    if before is None:
        return _NEVER if now == 0 else "solved every time" if now == 1 else "solved sometimes"
    then = fmean(sample.correct for sample in before.samples)
    if now != then:
        return _BETTER if now > then else _WORSE
    return _NEVER if now == 0 else _OFTEN if now == 1 else _STILL


def _groups(run: RunRecord) -> list[tuple[int, str, dict[str, Any]]]:
    """One group of each outcome from the first and the last logged iteration: (iteration, outcome, group)."""
    logged = sorted(run.rollout_files)
    shown = []
    for iteration in dict.fromkeys(logged[:1] + logged[-1:]):
        seen: Counter[str] = Counter()
        examples: dict[str, dict[str, Any]] = {}
        for group in run.groups(iteration):
            seen[group["outcome"]] += 1
            examples.setdefault(group["outcome"], group)
        shown += [(iteration, outcome, examples[outcome]) for outcome in OUTCOMES if outcome in examples]
    return shown


def _percent(value: float, sign: bool = False) -> str:
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def _shorten(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    left_out = len(text) - LONGEST_TEXT
    return f"{text[: LONGEST_TEXT // 2]}\n\n[... {left_out:,} characters ...]\n\n{text[-LONGEST_TEXT // 2 :]}"


def _image(plot: Plot) -> str:
    """The figure as a data URI, which isolates it from the page."""
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode()
