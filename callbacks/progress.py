"""The output of a run on the terminal: progress bars, a line for each iteration, and a summary at the end."""

import shlex
import time
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.errors import Stopped, one_line
from rence_lightning.evaluation import Evaluation, comparison, evaluation_table
from rence_lightning.prompts.prompts import LIMIT
from rence_lightning.report.checks import FALLING_ITERATIONS
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

LOG_WIDTH = 120
"""Width of tables, in columns, where the output is not a terminal."""

LINES_PER_HEADING = 20
"""Number of iterations after which the headings of their lines are printed again."""

LEGEND = "kept: groups trained on / groups sampled; rollouts, updates: time spent; left: time left, estimated"
WIDTHS = {"correct": 7, "reward": 6, "length": 6, "kept": 8, "loss": 7, "kl": 8, "rollouts": 8, "updates": 7, "left": 7}
"""Headings of the lines for iterations, and the widths of their columns."""


class Progress(Callback):
    """Progress bars, a line for each iteration, and a summary at the end of the run.

    Args:
        bars: Whether to show progress bars; where the output is not a terminal, there are none in any case.
    """

    def __init__(self, bars: bool = True) -> None:
        self.bars = bars
        self.console = Console(highlight=False, soft_wrap=True, markup=False)
        if not self.console.is_terminal:
            self.console.width = LOG_WIDTH
        self._bars: Bars | None = None
        self._task_start = self._iteration_start = self._first_start = self._sampling_seconds = 0.0
        self._tokens = self._iterations = self._lines = self._falling = 0
        self._evaluation: Evaluation | None = None
        self._stopped_by: BaseException | None = None

    # ---- the run ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        self.console.quiet = not trainer.is_global_zero

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        data = trainer.datamodule
        for line in data.cleaned.lines():
            self._say(line)
        if data.dropped_too_long:
            self._warn(
                f"{data.dropped_too_long} training prompts are longer than {data.longest_prompt} tokens, the limit "
                f"{LIMIT}, and were dropped"
            )
        sizes = [(each.numel(), each.requires_grad) for each in module.policy.parameters()]
        parameters, trained = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
        of_them = f", {trained:,} of them trained" if trained < parameters else ""
        size = f"{parameters:,} parameters{of_them}, {len(data.prompts):,} training prompts"
        self._say(f"{module.policy_name}: {size}; run directory {trainer.run_dir}")
        if trainer.session.resumed_from is not None:
            done, updates = trainer.progress
            within = f", and {updates} updates of the next" if updates else ""
            self._say(f"resumed from {trainer.session.resumed_from}: {done} iterations are done{within}")
            if trainer.session.branch_reason:
                self._say(f"a new run, because {trainer.session.branch_reason}")
            for change in trainer.session.changed_settings:
                self._warn(f"changed since the checkpoint: {change}")

    def on_already_finished(self, trainer: Trainer, module: PolicyModule) -> None:
        self._say(
            f"{trainer.session.resumed_from} has {trainer.current_epoch} iterations, and trainer.max_iterations is "
            f"{trainer.max_iterations}: nothing is left to train; raise it to continue the run"
        )

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        self._iteration_start = time.perf_counter()
        self._sampling_seconds = 0.0  # where the rollouts were restored with a checkpoint
        self._first_start = self._first_start or self._iteration_start

    def on_draw(
        self, trainer: Trainer, module: PolicyModule, batch: IterationBatch, prompts: int, group_size: int
    ) -> None:
        kept = f"{len(batch.groups)}/{batch.wanted} groups kept"
        title = f"iteration {batch.iteration}/{trainer.max_iterations}  rollouts  {kept}"
        self._begin(title, -(-prompts // trainer.world_size) * group_size)

    def on_evaluation_start(
        self, trainer: Trainer, module: PolicyModule, benchmarks: Sequence[str], responses: int
    ) -> None:
        name = benchmarks[0] if len(benchmarks) == 1 else f"{len(benchmarks)} benchmarks"
        self._begin(f"evaluation  {name}", -(-responses // trainer.world_size))

    def on_tokens(self, trainer: Trainer, module: PolicyModule, responses: int, tokens: int) -> None:
        self._tokens += tokens
        per_second = self._tokens / max(time.perf_counter() - self._task_start, 1e-9)
        self._advance(responses, f"{per_second:,.0f} tokens/s")

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self._sampling_seconds = time.perf_counter() - self._iteration_start
        self._begin(f"iteration {batch.iteration}/{trainer.max_iterations}  updates", len(batch.updates))
        if 0 < len(batch.groups) < batch.wanted:
            counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(batch.outcomes.items()))
            self._warn(
                f"iteration {batch.iteration}: only {len(batch.groups)} of {batch.wanted} groups were kept of "
                f"{batch.outcomes.total()} sampled ({counts}); training on these"
            )

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Mapping[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        seconds = (time.perf_counter() - self._task_start) / (batch_idx + 1)
        kl = f"  kl {outputs['kl']:.1e}" if "kl" in outputs else ""
        self._advance(1, f"{seconds:.1f} s/update  loss {outputs['loss']:.3f}" + kl)

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        label = f"iteration {trainer.current_epoch:>3}/{trainer.max_iterations}"
        self._iterations += 1
        now = time.perf_counter()
        updates = now - self._iteration_start - self._sampling_seconds
        mean = (now - self._first_start) / self._iterations  # with the evaluations and checkpoints between iterations
        left = mean * (trainer.max_iterations - trainer.current_epoch)
        if trainer.datamodule.command == "warmup":
            loss = f"loss {figures.get('iteration/loss', nan):.3f} per token, mean over its updates"
            self._say(f"{label}  {loss}  {updates:.1f} s  left {clock(left)}")
            return
        if self._iterations == 1:
            self._say(LEGEND)
        if self._lines % LINES_PER_HEADING == 0:
            self._say(aligned(" " * len(label), list(WIDTHS)))
        self._lines += 1
        self._say(iteration_line(label, figures, self._sampling_seconds, updates, left))
        if figures["rollouts/groups_trained"]:  # else, the figures of updates are an earlier iteration's
            self._falling = self._falling + 1 if figures.get("iteration/positive_log_ratio", 0.0) < 0 else 0
        if self._falling == FALLING_ITERATIONS:  # likelihood displacement: it moves away from what it should learn
            self._warn(
                f"the log-probability of correct responses has fallen for {FALLING_ITERATIONS} iterations; the run "
                "may be diverging (a lower learning rate or fewer updates an iteration are the first things to try)"
            )

    def on_evaluation_end(self, trainer: Trainer, module: PolicyModule, evaluation: Evaluation) -> None:
        self._end()
        self._evaluation = evaluation
        given = trainer.session.resumed_from or module.policy_name
        policy = f"after iteration {evaluation.iteration}" if trainer.training else given
        title = f"{policy}, temperature {evaluation.temperature:g}"
        self.console.print(evaluation_table(evaluation.results, evaluation.repeats, title))
        self._lines = 0
        if evaluation.baseline is not None and not self.console.quiet:
            table, differing = comparison(evaluation.baseline, evaluation.samples)
            self.console.print(table)
            for line in differing:
                self._warn(f"the two evaluations also differ in a setting: {line}")

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        if not trainer.training:
            self._say(f"written to {trainer.run_dir}")

    def on_fit_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        if trainer.datamodule.pool.left == 0:
            self._say("every training prompt is mastered: the run is complete")
        if self._evaluation is not None and self._evaluation.first is not None:
            self._say("\n" + "\n".join(_before_and_after(self._evaluation)))
        rollouts = "rollouts/, " if trainer.datamodule.command == "fit" else ""
        self._say(f"\nrun directory   {trainer.run_dir}  (metrics.csv, evaluations.jsonl, {rollouts}checkpoints/)")
        if trainer.datamodule.command == "warmup" and (policy := trainer.run_dir / "hf").exists():
            self._say(f"go on           fit with the same configuration, and --model.policy {policy}")

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        self._end()
        self._stopped_by = exception

    def teardown(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        """Says how to continue; not in `on_exception`, because only now is a checkpoint saved."""
        self._end()
        if self._stopped_by is None or not trainer.session.opened:  # it has finished, or the settings were wrong
            return
        if not trainer.training:
            self._say(f"interrupted; run the same command again to continue in {trainer.run_dir}")
        elif (last := trainer.session.run.checkpoint("last")) is not None:
            saved, advice = f"the last checkpoint is {last.name}", f"--ckpt_path {shlex.quote(str(trainer.run_dir))}"
            if isinstance(self._stopped_by, Stopped | KeyboardInterrupt):
                self._say(f"stopped by {one_line(self._stopped_by)}; {saved}: continue with {advice}")
            elif "--ckpt_path" not in str(self._stopped_by):  # a note, which is printed after the cause
                self._stopped_by.add_note(f"{saved}: once this is fixed, continue with {advice}")

    # ---- bars and lines ---------------------------------------------------------------------------------------------

    def _begin(self, title: str, total: int) -> None:
        self._end()
        self._tokens, self._task_start = 0, time.perf_counter()
        if self.bars and self.console.is_terminal:
            name, figures = (TextColumn(f"{{task.{key}}}", markup=False) for key in ("description", "fields[figures]"))
            counts = (BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bars = Bars(name, *counts, figures, console=self.console, transient=True)
            self._bars.add_task(title, total=total, figures="")
            self._bars.start()

    def _advance(self, steps: int, figures: str) -> None:
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], advance=steps, figures=figures)

    def _end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None

    def _say(self, text: str) -> None:
        self.console.print(text)

    def _warn(self, text: str) -> None:
        self.console.print(text, style="yellow")


def _before_and_after(evaluation: Evaluation) -> list[str]:
    """The change since the run's first evaluation, one line for each benchmark that both have."""
    first, last = evaluation.first or {}, evaluation.results
    spread = "; std over repeats {:.1%} and {:.1%}" if evaluation.repeats > 1 else ""
    return [
        f"{name}: sampled pass@1 {first[name]['avg']:.1%} -> {last[name]['avg']:.1%} (avg@{evaluation.repeats} at "
        f"temperature {evaluation.temperature:g}, {last[name]['problems']:.0f} problems"
        f"{spread.format(first[name]['std'], last[name]['std'])})"
        for name in filter(first.__contains__, last)
    ]


def iteration_line(label: str, figures: Mapping[str, float], rollouts: float, updates: float, left: float) -> str:
    """The line of an iteration: figures with the names of `metrics.csv`, and the times of rollouts and updates and that
    left of the run, in seconds."""
    kept, sampled = figures["rollouts/groups_trained"], figures["rollouts/groups_sampled"]
    cells = [
        f"{figures['rollouts/correct']:.1%}",
        f"{figures['rollouts/reward']:.3f}",
        f"{figures['rollouts/length']:.0f}",
        f"{kept:.0f}/{sampled:.0f}",
        f"{figures.get('iteration/loss', nan):.3f}" if kept else "-",
        f"{figures.get('iteration/kl', nan):.1e}" if kept else "-",
    ]
    times = [f"{seconds:.1f} s" if seconds < 99.95 else clock(seconds) for seconds in (rollouts, updates)]
    return aligned(label, [*cells, *times, clock(left)])


def aligned(label: str, cells: list[str]) -> str:
    """Cells under one another, in lines of 100 columns for up to 999 iterations."""
    return "  ".join([label, *(cell.rjust(width) for cell, width in zip(cells, WIDTHS.values(), strict=True))])


def clock(seconds: float) -> str:
    """A time in hours, minutes and seconds, as `0:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
