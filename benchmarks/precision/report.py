"""`python -m benchmarks.precision report`: the tables of docs/precision.md and its figure, from the results."""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.markdown import table
from benchmarks.precision.measures import Seen, seen
from benchmarks.precision.results import Row, only, read_results
from benchmarks.precision.views import TRUE, VIEWS
from rence_lightning.errors import UserError

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "precision.md"
BETA = 0.1
"""Factor of a log-ratio in a score, in the paper's run."""


def report(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Writes the tables into a page, and the figure next to it.

    A table stands between the lines `<!-- table NAME -->` and `<!-- end -->`, and replaces what stands there.

    Args:
        results: Folder of movement.jsonl and learning.jsonl.
        page: Markdown file with a place for each table.

    Raises:
        UserError: The page has a place for an unknown table.
    """
    from benchmarks.precision.figure import draw

    movement, learning = (read_results(results / f"{name}.jsonl") for name in ("movement", "learning"))
    page.write_text(filled(page.read_text(encoding="utf-8"), movement, learning), encoding="utf-8")
    draw(movement, learning, page.with_suffix(".png"))


def filled(text: str, movement: Sequence[Row], learning: Sequence[Row]) -> str:
    """The text of a page with its tables made from the results."""

    def replacement(match: re.Match[str]) -> str:
        if (made := TABLES.get(match[1])) is None:
            raise UserError(f"no table {match[1]}; choose from {', '.join(TABLES)}")
        return f"<!-- table {match[1]} -->\n{made(movement, learning)}\n<!-- end -->"

    return re.sub(r"<!-- table ([^>]+?) -->\n.*?<!-- end -->", replacement, text, flags=re.DOTALL)


def share_of(
    rows: Sequence[Row], trajectory: dict[str, object], old: int, new: int, view: str, kind: str
) -> Seen | None:
    """What a view sees of a pair's true log-ratios, over the texts of one kind and all seeds; None if not measured."""
    found = only(rows, **trajectory, old=old, new=new, view=view, trained_in="float32")
    if not found:
        return None
    exact = [only(rows, trajectory=row["trajectory"], old=old, new=new, view=TRUE.name)[0] for row in found]
    return seen(
        *(list(chain.from_iterable(of_kind(row, "log_ratios", kind) for row in each)) for each in (found, exact))
    )


def of_kind(row: Row, figure: str, kind: str) -> list[float]:
    """The figures of the texts of one kind."""
    return [value for value, found in zip(row[figure], row["kinds"], strict=True) if found == kind]


def pairs_of(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """The pairs of an old and a new policy, in the order of the updates."""
    return sorted({(row["old"], row["new"]) for row in rows if row["old"] != row["new"]}, key=lambda pair: pair[1])


def _title(old: int, new: int) -> str:
    return str(new) if old == 0 else f"{old} to {new}"


def _shares(lora: bool, learning_rate: float, kind: str) -> Callable[[Sequence[Row], Sequence[Row]], str]:
    def made(movement: Sequence[Row], _: Sequence[Row]) -> str:
        trajectory: dict[str, object] = {"lora": lora, "learning_rate": learning_rate}
        pairs = pairs_of(only(movement, **trajectory, trained_in="float32"))
        rows = []
        for view in VIEWS:
            found = [share_of(movement, trajectory, *pair, view, kind) for pair in pairs]
            if view != TRUE.name and any(found):
                rows.append([view, *(f"{each.share:.2f} ± {each.scatter:.2f}" if each else "" for each in found)])
        return table(["updates", *(_title(*pair) for pair in pairs)], rows)

    return made


def _about(movement: Sequence[Row], learning: Sequence[Row]) -> str:
    """Where, with what and from which seeds the results come."""

    def distinct(rows: Sequence[Row], name: str) -> str:
        return ", ".join(dict.fromkeys(f"{row[name]:g}" if name == "seed" else str(row[name]) for row in rows))

    parts = {"movement": movement, "learning": learning}
    machine = distinct(movement, "processor")
    lines = [f"- {machine}, one thread on a busy machine; torch {distinct(movement, 'torch')}"]
    lines += [
        f"- {name}: seeds {distinct(rows, 'seed')}; commits {distinct(rows, 'commit')}" for name, rows in parts.items()
    ]
    return "\n".join(["", *lines])  # a list after a line that is not blank would be a paragraph


def _sizes(movement: Sequence[Row], _: Sequence[Row]) -> str:
    """True log-ratios and KL: how far the policy moved."""
    rows = []
    keys = sorted({(row["lora"], row["learning_rate"]) for row in only(movement, trained_in="float32")})
    for lora, rate in keys:
        found = only(movement, lora=lora, learning_rate=rate, view=TRUE.name, trained_in="float32")
        for old, new in pairs_of(found):
            pair = only(found, old=old, new=new)
            problems, responses, kl = (
                [value for row in pair for value in of_kind(row, figure, kind)]
                for figure, kind in (("log_ratios", "problem"), ("log_ratios", "response"), ("kl", "response"))
            )
            size = [f"{fmean(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in (problems, responses)]
            name = "LoRA" if lora else "all weights"
            rows.append(
                [name, f"{rate:g}", _title(old, new), *size, f"{BETA * _rms(responses):.3f}", f"{fmean(kl):.1e}"]
            )
    return table(
        ["trained", "learning rate", "updates", "log-ratio, problems", "responses", "score, responses", "KL"], rows
    )


def _noise(movement: Sequence[Row], _: Sequence[Row]) -> str:
    rows = []
    for view in VIEWS:
        found = [row for row in only(movement, view=view, old=0, new=0) if view != TRUE.name][:1]  # the same for all
        for row in found:
            error = _rms(row["sequence_errors"])
            rows.append([view, f"{row['token_std']:.4f}", f"{error:.2f}", f"{BETA * error:.3f}"])
    return table(["computed in", "a token", "a sequence", "a score (beta 0.1)"], rows)


def _kl(movement: Sequence[Row], _: Sequence[Row]) -> str:
    """KL on responses as each view computes it, in units of the true one."""
    found = only(movement, trained_in="float32")
    views = [view for view in VIEWS if only(found, view=view)]
    keys = sorted({(row["lora"], row["learning_rate"]) for row in found})
    rows = []
    for lora, rate in keys:
        of_key = only(found, lora=lora, learning_rate=rate)
        for old, new in pairs_of(of_key):
            cells = []
            for view in views:
                pair = only(of_key, old=old, new=new, view=view)
                values = [value for row in pair for value in of_kind(row, "kl", "response")]
                cells.append(f"{fmean(values):.1e}" if values else "")
            rows.append(["LoRA" if lora else "all weights", f"{rate:g}", _title(old, new), *cells])
    return table(["trained", "learning rate", "updates", *views], rows)


def _weights(lora: bool, learning_rate: float) -> Callable[[Sequence[Row], Sequence[Row]], str]:
    """What the movement of the weights says, in the layout of the shares."""

    def made(movement: Sequence[Row], _: Sequence[Row]) -> str:
        found = only(movement, lora=lora, learning_rate=learning_rate, trained_in="float32")
        pairs = pairs_of(found)
        rows = []
        for view in VIEWS:
            cells = []
            for old, new in pairs:
                moved = only(found, old=old, new=new, view=view)
                seen_of_weights, changed = (
                    [row[name] for row in moved] for name in ("movement_seen", "weights_changed")
                )
                cells.append(f"{fmean(seen_of_weights):.2f} ({fmean(changed):.1%})" if moved else "")
            if view != TRUE.name and any(cells):
                rows.append([view, *cells])
        return table(["updates", *(_title(*pair) for pair in pairs)], rows)

    return made


def _check(movement: Sequence[Row], _: Sequence[Row]) -> str:
    """Trajectories that were trained in a mixed precision, next to the one in float32."""
    rows = []
    for row in movement:
        if row["trained_in"] == "float32" or row["old"] == row["new"] or row["view"] == TRUE.name:
            continue
        true = only(movement, trajectory=row["trajectory"], old=row["old"], new=row["new"], view=TRUE.name)[0]
        fields = {name: row[name] for name in ("learning_rate", "lora", "seed", "old", "new")}
        other = only(movement, **fields, view=TRUE.name, trained_in="float32")[0]
        mixed = only(movement, **fields, view=row["view"], trained_in="float32")[0]
        own, theirs = (of_kind(each, "log_ratios", "problem") for each in (true, other))
        shares = [
            seen(of_kind(values, "log_ratios", "problem"), of_kind(exact, "log_ratios", "problem")).share
            for values, exact in ((row, true), (mixed, other))
        ]
        rows.append([row["view"], _list(theirs), _list(own), *(f"{share:.2f}" for share in reversed(shares))])
    titles = ["precision", "trained in float32", "trained in it", "share seen, trained in float32", "trained in it"]
    return table(titles, rows)


def _learning(_: Sequence[Row], learning: Sequence[Row]) -> str:
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in learning):
        runs = only(learning, arm=arm)
        before, middle, after = (
            [100 * value for value in values]
            for values in (
                [run["before"] for run in runs],
                [run["curve"][len(run["curve"]) // 2] for run in runs],
                [run["after"] for run in runs],
            )
        )
        last = [run["iterations"][-1] for run in runs]
        seen_at = [[run["iterations"][at].get("movement_seen") for run in runs] for at in (0, 1, -1)]
        changed = [run["iterations"][0].get("weights_changed") for run in runs]
        kl = [fmean(each["kl"] for each in run["iterations"]) for run in runs]
        rows.append(
            [
                arm,
                str(len(runs)),
                f"{fmean(before):.1f}",
                *(_with_spread(each) for each in (middle, after)),
                f"{fmean(kl):.1e}",
                f"{fmean(each['kl_coef'] for each in last):.2e}",
                _mean(changed),
                ", ".join(_mean(each) for each in seen_at),
                f"{fmean(run['cpu_seconds'] for run in runs):.0f}",
            ]
        )
    titles = [
        "precision",
        "seeds",
        "before",
        "half-way",
        "after",
        "KL",
        "kl_coef",
        "weights_changed",
        "movement_seen",
        "CPU s",
    ]
    return table(titles, rows)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.2f}" if known else ""


def _with_spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _rms(values: Sequence[float]) -> float:
    return sqrt(fmean(value**2 for value in values))


TABLES: dict[str, Callable[[Sequence[Row], Sequence[Row]], str]] = {
    **{
        f"share {'LoRA' if lora else 'full'} {rate:g} {kind}": _shares(lora, rate, kind)
        for lora in (False, True)
        for rate in (1e-6, 1e-5, 1e-4)
        for kind in ("problem", "response")
    },
    "about": _about,
    "sizes": _sizes,
    "noise": _noise,
    "kl": _kl,
    **{
        f"weights {'LoRA' if lora else 'full'} {rate:g}": _weights(lora, rate)
        for lora in (False, True)
        for rate in (1e-6, 1e-5, 1e-4)
    },
    "check": _check,
    "learning": _learning,
}
