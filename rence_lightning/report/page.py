"""The report page: the contents of a run directory, for readers who did not make the run."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rence_lightning.errors import UserError
from rence_lightning.report import charts, times
from rence_lightning.report.dropped import account
from rence_lightning.report.examine import examine, kl_target
from rence_lightning.report.figures import COLOURS, Plot
from rence_lightning.report.numbers import clock, percent
from rence_lightning.report.results import Results
from rence_lightning.report.run_record import RunRecord
from rence_lightning.report.samples import comparisons, groups_of_each_outcome, same_prompt
from rence_lightning.report.verdict import Level, verdict, worst

REPORT = "report.html"
LONGEST_TEXT = 6_000
"""Number of characters of a response that are shown; a longer one is shortened in the middle."""

GLIMPSE = 200
"""Number of characters of a response that are shown at the top of the page."""

SYMBOLS = {Level.FINE: ("✓", "fine"), Level.WATCH: ("!", "watch"), Level.WRONG: ("✗", "wrong")}
"""Symbol and word of each level: colour is never the only sign."""


def write_report(run_dir: Path, file: Path | None = None, at_end: bool = False) -> Path:
    """Write the report of a run.

    Args:
        run_dir: Run directory of `fit` or of `validate`.
        file: File to write (default: `report.html` in the run directory).
        at_end: Whether the run itself writes it, at its end.

    Returns:
        The file written.

    Raises:
        UserError: `run_dir` is not a run directory, or the page cannot be written.
    """
    page = render(RunRecord(run_dir, at_end))
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
    environment.filters |= {
        "percent": percent,
        "shorten": _shorten,
        "image": _image,
        "clock": clock,
        "glimpse": _glimpse,
    }
    results, dropped = Results(run), account(run)
    spent = times.time_spent(run) if run.command == "fit" else []  # an evaluation has one phase
    checks = examine(run, results)
    compared = comparisons(run)
    example = next((pair for each in compared for pair in each.problems if pair[0] is not None), None)
    return environment.get_template("page.html.j2").render(
        run=run,
        facts=_facts(run),
        colours=COLOURS,
        results=results,
        learned=charts.present([charts.accuracy_curve(run)]) + charts.curves(run, charts.LEARNED),
        checks=checks,
        verdict=verdict(checks) if checks else "",
        level=SYMBOLS[worst(checks)],
        symbols=SYMBOLS,
        health=charts.present([charts.kl_curve(run, kl_target(run))]) + charts.curves(run, charts.HEALTH),
        spent=spent,
        time_summary=times.summary(spent),
        lost=times.lost_seconds(run),
        time_plots=charts.present([charts.time_plot(run)]) if spent else [],
        dropped=dropped,
        dropped_plots=charts.present([charts.outcome_plot(run), charts.pool_curve(run)]),
        comparisons=compared,
        example=example,
        same_prompt=None if compared and results.trained else same_prompt(run),
        distributions=charts.distributions(run),
        groups=groups_of_each_outcome(run),
        further=charts.curves(run, charts.FURTHER),
    )


def _facts(run: RunRecord) -> dict[str, str]:
    """The main settings and sizes of the run, by name."""
    objective = run.setting("model.objective.class_path")
    fit = run.command == "fit"
    facts: dict[str, Any] = {
        "policy": run.setting("model.policy"),
        "objective": str(objective).rpartition(".")[2] if objective and fit else None,
        "iterations": f"{run.iterations} of {run.planned or '?'}" if fit else None,
        "updates": run.updates or None,
        "group size (K)": run.setting("data.group_size") if fit else None,
        "prompts per iteration (B)": run.setting("data.prompts_per_iteration") if fit else None,
        "training prompts": run.training_problems.get("kept"),
        "seed": run.setting("seed_everything"),
    }
    if run.evaluations:
        repeats, temperature = run.evaluation_setting("repeats"), run.evaluation_setting("temperature")
        facts["evaluation"] = f"{repeats or '?'} samples per problem at temperature {temperature}"
    return {name: str(value) for name, value in facts.items() if value is not None}


def _shorten(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    left_out = len(text) - LONGEST_TEXT
    return f"{text[: LONGEST_TEXT // 2]}\n\n[... {left_out:,} characters ...]\n\n{text[-LONGEST_TEXT // 2 :]}"


def _glimpse(text: str) -> str:
    """The end of a response, where its answer is."""
    return text if len(text) <= GLIMPSE else f"... {text[-GLIMPSE:]}"


def _image(plot: Plot) -> str:
    """The figure as a data URI, which isolates it from the page."""
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode()
