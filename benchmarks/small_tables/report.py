"""The tables as Markdown."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import fmean, stdev

from benchmarks.small_tables.choice import Scores, best
from benchmarks.small_tables.runs import Result, commit
from benchmarks.small_tables.spec import Method, Row, Spec, Table
from rence_lightning.prompts.arithmetic import SPLIT_SIZES


@dataclass(frozen=True)
class Outcome:
    """The data of the report.

    Attributes:
        spec: Specification of the experiment.
        tables: Tables of the experiment that were run.
        methods: Method of each row.
        scores: Validation accuracy of each method at each learning rate.
        results: Results of each method, one per seed.
    """

    spec: Spec
    tables: Sequence[Table]
    methods: Mapping[Row, Method]
    scores: Scores
    results: Mapping[Method, Sequence[Result]]


def report(outcome: Outcome, command: str, processes: int, figure: str | None) -> str:
    """The complete page as Markdown."""
    notes: list[str] = []
    parts = [_header(outcome, command, processes), *(_table(table, outcome, notes) for table in outcome.tables)]
    parts += notes
    if figure is not None:
        parts.append(
            f"![learning curves]({figure})\n\nSampled pass@1 on the test split against responses sampled in training: "
            "mean over seeds, and the range from the lowest to the highest, up to the end of the shortest run."
        )
    parts.append(_choice(outcome))
    return "\n\n".join(parts) + "\n"


def _header(outcome: Outcome, command: str, processes: int) -> str:
    spec = outcome.spec
    made_at = dict.fromkeys(result.commit for results in outcome.results.values() for result in results)
    commits = _list([f"`{made}`" if made else "not recorded" for made in made_at])
    return "\n".join(
        [
            f"- command `{command}`; page written at commit `{commit()}`, commit of the tables' runs: {commits}",
            f"- torch {version('torch')}, transformers {version('transformers')}, Python {platform.python_version()}, "
            f"{len(os.sched_getaffinity(0))} cores, {processes} runs at a time, one thread each",
            f"- each run starts from the same policy and samples {spec.rollouts:,} responses in training, plus the "
            "rest of the iteration in which it reaches that number",
            f"- seeds {_list(spec.seeds)}; the spread is the sample standard deviation over them",
            *(f"- evaluations: {line}" for line in _evaluations(outcome)),
            "- pass@1 is that of the final policy, or of the last evaluation if a run ended early; no checkpoint is "
            "selected",
            "- CPU seconds are those of the whole process, including start-up and evaluations",
        ]
    )


def _evaluations(outcome: Outcome) -> list[str]:
    """Numbers of problems and samples; one line unless rows differ."""
    scales = dict.fromkeys((method.repeats, method.limit) for method in outcome.results if method.repeats)
    return [
        f"{_problems('test', limit)} of the test split, {_problems('validation', limit)} of the validation split, "
        f"{repeats} samples each"
        for repeats, limit in scales
    ]


def _problems(split: str, limit: int | None) -> str:
    return f"{min(SPLIT_SIZES[split], limit or SPLIT_SIZES[split])} problems"


def _table(table: Table, outcome: Outcome, notes: list[str]) -> str:
    lines = [
        f"### {table.title}",
        "",
        "| | pass@1, % | responses | updates | CPU s | learning rate | the paper's Avg, Qwen3-4B |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        method = outcome.methods[row]
        results = outcome.results[method]
        mark = ""
        if errors := [result.error for result in results if result.error]:
            mark = f" [{len(notes) + 1}]"
            notes.append(
                f"[{len(notes) + 1}] {row.name}: {len(errors)} of {len(results)} runs ended early: {errors[0]}"
            )
        rate = f"{best(outcome.scores[method]):g}" if method.trained else ""
        lines.append(
            f"| {row.name}{mark} | {spread([100 * result.accuracy for result in results])} | "
            f"{fmean(result.responses for result in results):,.0f} | "
            f"{fmean(result.updates for result in results):.0f} | "
            f"{fmean(result.cpu_seconds for result in results):.0f} | {rate} | {row.paper} |"
        )
    return "\n".join(lines)


def _choice(outcome: Outcome) -> str:
    rates = sorted({rate for scores in outcome.scores.values() for rate in scores})
    lines = [
        "### The choice of learning rates",
        "",
        f"Pass@1 in % on the validation split, mean over the selection seeds ({_list(outcome.spec.selection_seeds)}); "
        "the highest is selected. If it was at an end of the list, the list was extended.",
        "",
        f"| | {' | '.join(f'{rate:g}' for rate in rates)} |",
        "|---|" + "---|" * len(rates),
    ]
    names = {outcome.methods[row]: row.name for table in reversed(outcome.tables) for row in reversed(table.rows)}
    for method, scores in outcome.scores.items():
        cells = [_cell(scores, rate) for rate in rates]
        lines.append(f"| {names[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(scores: dict[float, float], rate: float) -> str:
    if rate not in scores:
        return ""
    return f"**{100 * scores[rate]:.1f}**" if rate == best(scores) else f"{100 * scores[rate]:.1f}"


def spread(values: Sequence[float]) -> str:
    """`mean ± sample standard deviation`."""
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{fmean(values):.1f}"


def _list(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)
