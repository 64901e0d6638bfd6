"""The output of a run on the terminal: progress bars, a line for each iteration, and a summary at the end."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import Tensor

from rence_lightning.callbacks.base import Callback
from rence_lightning.callbacks.iteration_table import LEGEND, IterationLine, rate
from rence_lightning.errors import Stopped
from rence_lightning.evaluation import Evaluation, compare, comparison_table, evaluation_table, settings_that_differ
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

LOG_WIDTH = 120
"""Width of tables, in columns, where the output is not a terminal."""

LINES_PER_HEADING = 20
"""Number of iterations after which the headings of their lines are printed again."""

ALARM_AFTER = 3
"""Number of consecutive iterations with falling log-probability of correct responses that leads to a warning."""


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
        self._live: Bars | None = None
        self._task: TaskID | None = None
        self._tokens = 0
        self._task_start = 0.0
        self._first_start: float | None = None
        self._iteration_start = 0.0
        self._sampling_seconds = 0.0
        self._iterations = 0
        self._lines = 0
        self._falling = 0
        self._evaluation: Evaluation | None = None
        self._exported: Path | None = None
        self._stopped_by: str | None = None

    # ---- the run ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        if not trainer.is_global_zero:
            self.console.quiet = True

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        data = trainer.datamodule
        for line in data.cleaned.lines():
            self._say(line)
        if data.dropped_too_long:
            self._warn(
                f"{data.dropped_too_long} training prompts are longer than {data.longest_prompt} tokens "
                "(data.max_prompt_tokens) and were dropped"
            )
        parameters = sum(parameter.numel() for parameter in module.policy.parameters())
        trained = sum(parameter.numel() for parameter in module.policy.parameters() if parameter.requires_grad)
        of_them = f", {trained:,} of them trained" if trained < parameters else ""
        self._say(
            f"{module.policy_name}: {parameters:,} parameters{of_them}, {len(trainer.datamodule.prompts):,} training "
            f"prompts; run directory {trainer.run_dir}"
        )
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
            f"{trainer.session.resumed_from} has all {trainer.max_iterations} iterations of the run: nothing is left "
            "to train; raise trainer.max_iterations to continue it"
        )

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        self._iteration_start = time.perf_counter()
        self._sampling_seconds = 0.0  # where the rollouts were restored with a checkpoint
        if self._first_start is None:
            self._first_start = self._iteration_start

    def on_draw(
        self, trainer: Trainer, module: PolicyModule, batch: IterationBatch, prompts: int, group_size: int
    ) -> None:
        kept = f"{len(batch.groups)}/{batch.wanted} groups kept"
        title = f"iteration {batch.iteration}/{trainer.max_iterations}  rollouts  {kept}"
        self._begin(title, -(-prompts // trainer.world_size) * group_size)

    def on_benchmark_start(self, trainer: Trainer, module: PolicyModule, name: str, responses: int) -> None:
        self._begin(f"evaluation  {name}", -(-responses // trainer.world_size))

    def on_tokens(self, trainer: Trainer, module: PolicyModule, responses: int, tokens: int) -> None:
        self._tokens += tokens
        per_second = self._tokens / max(time.perf_counter() - self._task_start, 1e-9)
        self._advance(responses, f"{per_second:,.0f} tokens/s")

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self._sampling_seconds = time.perf_counter() - self._iteration_start
        self._begin(f"iteration {batch.iteration}/{trainer.max_iterations}  updates", len(batch.updates))
        if 0 < len(batch.groups) < batch.wanted:
            self._warn(
                f"iteration {batch.iteration}: only {len(batch.groups)} of {batch.wanted} groups were kept of "
                f"{batch.totals.groups} sampled ({_outcomes(batch)}); training on these"
            )

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        speed = rate(batch_idx + 1, time.perf_counter() - self._task_start, "update")
        self._advance(1, f"{speed}  loss {outputs['loss']:.3f}  kl {outputs['kl']:.1e}")

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        line = self._iteration_line(trainer)
        if self._lines % LINES_PER_HEADING == 0:
            if self._iterations == 1:
                self._say(LEGEND)
            self._say(line.heading)
        self._lines += 1
        self._say(str(line))
        if line.loss is not None:
            self._watch_positives(trainer.callback_metrics.get("iteration/positive_log_ratio"))

    def _iteration_line(self, trainer: Trainer) -> IterationLine:
        assert self._first_start is not None
        self._iterations += 1
        now = time.perf_counter()
        mean = (now - self._first_start) / self._iterations  # with the evaluations and checkpoints between iterations
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        trained = figures["rollouts/groups_trained"] > 0  # else, the figures are an earlier iteration's
        return IterationLine(
            iteration=trainer.current_epoch,
            iterations=trainer.max_iterations,
            correct=figures["rollouts/correct"],
            reward=figures["rollouts/reward"],
            length=figures["rollouts/length"],
            kept=int(figures["rollouts/groups_trained"]),
            sampled=int(figures["rollouts/groups_sampled"]),
            loss=figures["iteration/loss"] if trained else None,
            kl=figures["iteration/kl"] if trained else None,
            rollouts=self._sampling_seconds,
            updates=now - self._iteration_start - self._sampling_seconds,
            left=mean * (trainer.max_iterations - trainer.current_epoch),
        )

    def on_stale_samples(self, trainer: Trainer, module: PolicyModule, folder: Path) -> None:
        self._say(f"{folder} held samples of a different policy, benchmark or setting; they were removed")

    def on_evaluation_end(self, trainer: Trainer, module: PolicyModule, evaluation: Evaluation) -> None:
        self._end()
        self._evaluation = evaluation
        policy = f"after iteration {evaluation.iteration}" if trainer.training else _policy(trainer, module)
        title = f"{policy}, temperature {evaluation.temperature:g}"
        self.console.print(evaluation_table(evaluation.results, evaluation.repeats, title))
        self._lines = 0
        if evaluation.baseline is not None and not self.console.quiet:
            a, b = evaluation.baseline, evaluation.samples
            self.console.print(comparison_table(compare(a, b), str(a.path), str(b.path)))
            for line in settings_that_differ(a, b):
                self._warn(f"the two evaluations also differ in a setting: {line}")

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        if not trainer.training:
            self._say(f"written to {trainer.run_dir}")

    def on_export(self, trainer: Trainer, module: PolicyModule, folder: Path) -> None:
        self._exported = folder

    def on_fit_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        if trainer.datamodule.pool.left == 0:
            self._say("every training prompt is mastered: the run is complete")
        if self._evaluation is not None and self._evaluation.first is not None:
            self._say("\n" + "\n".join(_before_and_after(self._evaluation)))
        self._say(f"\nrun directory   {trainer.run_dir}  (metrics.csv, evaluations.jsonl, rollouts/, checkpoints/)")
        if self._exported is not None:
            self._say(f"trained policy  {self._exported}\n\nuse it with transformers alone:\n")
            self._say(_usage(str(self._exported), trainer))

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        self._end()
        self._stopped_by = str(exception) if isinstance(exception, Stopped) else type(exception).__name__

    def teardown(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        self._end()
        if self._stopped_by is None:
            return
        if stage == str(TrainerFn.VALIDATING):
            if not trainer.session.opened:  # the settings were wrong
                return
            self._say(f"interrupted; run the same command again to continue in {trainer.run_dir}")
        # Not in on_exception: only now have all callbacks been called, and a checkpoint is saved.
        elif trainer.session.opened and (last := trainer.session.run.checkpoint("last")) is not None:
            self._say(
                f"stopped by {self._stopped_by}; the last checkpoint is {last.name}: continue with "
                f"--ckpt_path {trainer.run_dir}"
            )

    # ---- bars and lines ---------------------------------------------------------------------------------------------

    def _watch_positives(self, log_ratio: Tensor | None) -> None:
        """Warn of likelihood displacement: the policy moves away from the answers that it should learn."""
        self._falling = self._falling + 1 if log_ratio is not None and float(log_ratio) < 0 else 0
        if self._falling == ALARM_AFTER:
            self._warn(
                f"the log-probability of correct responses has fallen for {ALARM_AFTER} iterations; the run "
                "may be diverging (a lower learning rate or fewer updates an iteration are the first things to try)"
            )

    def _begin(self, title: str, total: int) -> None:
        self._end()
        self._tokens, self._task_start = 0, time.perf_counter()
        if self.bars and self.console.is_terminal:
            self._live = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task(title, total=total, figures="")

    def _advance(self, steps: int, figures: str) -> None:
        if self._live is not None and self._task is not None:
            self._live.update(self._task, advance=steps, figures=figures)

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = self._task = None

    def _say(self, text: str) -> None:
        self.console.print(text)

    def _warn(self, text: str) -> None:
        self.console.print(text, style="yellow")


def _outcomes(batch: IterationBatch) -> str:
    return ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in sorted(batch.outcomes.items()))


def _policy(trainer: Trainer, module: PolicyModule) -> str:
    return str(trainer.session.resumed_from or module.policy_name)


def _before_and_after(evaluation: Evaluation) -> list[str]:
    """The change since the run's first evaluation, one line for each benchmark that both have."""
    first, last = evaluation.first or {}, evaluation.results
    return [
        f"{name}: sampled pass@1 {first[name]['avg']:.1%} -> {last[name]['avg']:.1%} "
        f"(avg@{evaluation.repeats} at temperature {evaluation.temperature:g}, {last[name]['problems']:.0f} problems; "
        f"std over repeats {first[name]['std']:.1%} and {last[name]['std']:.1%})"
        for name in last
        if name in first
    ]


def _usage(folder: str, trainer: Trainer) -> str:
    data = trainer.datamodule
    prompt = next(iter(data.prompts.values()))
    return (
        "    from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"    tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
        f"    policy = AutoModelForCausalLM.from_pretrained({folder!r})\n"
        f"    prompt = tokenizer({data.template.render(data.tokenizer, prompt.problem)!r}, "
        "return_tensors='pt', add_special_tokens=False)\n"
        "    answer = policy.generate(**prompt, max_new_tokens=256)\n"
        "    print(tokenizer.decode(answer[0], skip_special_tokens=True))"
    )
