"""What `fit`, `warmup` and `validate` return."""

import html
import io
import os
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rence_lightning.api.policy import TrainedPolicy
from rence_lightning.evaluation import read_evaluations
from rence_lightning.report.curves import plot
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.changed_settings import by_setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result:
    """A finished run.

    Attributes:
        run_dir: Directory with all files of the run.
        policy: Policy as the run left it.
        evaluations: Evaluations in their order, as `evaluations.jsonl` has them: `iteration`, `average`, and the
            figures of each benchmark under `benchmarks`; shares are in [0, 1].
        metrics: Contents of `metrics.csv` as a `pandas.DataFrame`: a row for each update, iteration and evaluation, a
            column for each figure, with NaN where a row has none.
        before: Average correctness (avg@k) of each benchmark in the first evaluation.
        after: Average correctness (avg@k) of each benchmark in the last evaluation.
    """

    def __init__(self, run_dir: Path, policy: TrainedPolicy) -> None:
        import pandas  # takes a second to import

        self.run_dir, self.policy = run_dir, policy
        self.evaluations: list[dict[str, Any]] = read_evaluations(run_dir / "evaluations.jsonl")
        metrics = run_dir / "metrics.csv"
        self.metrics: pandas.DataFrame = pandas.read_csv(metrics) if metrics.exists() else pandas.DataFrame()
        averages: list[dict[str, float]] = [
            {name: figures["avg"] for name, figures in each["benchmarks"].items()} for each in self.evaluations
        ] or [{}]
        self.before, self.after = averages[0], averages[-1]

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Steps (updates done) and values of one of the metrics, such as `rollouts/correct`."""
        rows = self.metrics[["step", name]].dropna() if name in self.metrics else self.metrics[:0]
        return [(int(step), float(value)) for step, value in rows.itertuples(index=False)]

    def plot(self, *others: "Result") -> "Figure":
        """The first curves of the report, as a figure of matplotlib: accuracy, what was sampled, the objective, KL.

        Args:
            others: Further results; each setting then has a line, the mean over runs that differ in their seeds alone.
        """
        runs = {str(each.run_dir): RunRecord(each.run_dir) for each in (self, *others)}
        settings = by_setting({name: run.config_yaml for name, run in runs.items()})
        return plot({each.label: [runs[name] for name in each.seeds] for each in settings})

    def _repr_html_(self) -> str:
        """What a notebook shows: accuracies, curves, and a link to the report."""
        import pandas

        rows = {
            f"iteration {line['iteration']}": {
                name: f"{100 * row['avg']:.1f}% ({100 * row['avg_low']:.1f} to {100 * row['avg_high']:.1f})"
                for name, row in line["benchmarks"].items()
            }
            for line in (*self.evaluations[:1], *self.evaluations[1:][-1:])
        }
        self.plot().savefig(picture := io.BytesIO(), format="png")
        report = self.run_dir / "report.html"
        link = html.escape(Path(os.path.relpath(report)).as_posix())
        return (
            f'{pandas.DataFrame(rows).to_html()}<img alt="curves" src="data:image/png;base64,'
            f'{b64encode(picture.getvalue()).decode()}">'
            + (f'<p><a href="{link}">the report</a></p>' if report.exists() else "")
        )

    def __repr__(self) -> str:
        before = self.before if len(self.evaluations) > 1 else {}
        starts = {name: f"{before[name]:.1%} -> " if name in before else "" for name in self.after}
        shown = [f"{name}: {starts[name]}{share:.1%}" for name, share in self.after.items()]
        return f"Result({', '.join([repr(str(self.run_dir)), *shown])})"
