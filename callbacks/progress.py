"""What a person sees of a run: bars while something is going on, a line an iteration, and a summary at the end."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from rence_lightning.callbacks.base import Callback
from rence_lightning.callbacks.benchmark_evaluation import BenchmarkEvaluation
from rence_lightning.callbacks.export import ExportPolicy
from rence_lightning.errors import EngineError, Stopped
from rence_lightning.evaluation import compare, comparison_table, evaluation_table, settings_that_differ
from rence_lightning.sampling.datamodule import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer

LOG_WIDTH = 120
"""Columns of a table where there is no terminal to ask."""

ALARM_AFTER = 3
"""Iterations in a row in which the log-probability of correct responses falls before a warning is printed."""


class Progress(Callback):
    """Progress bars and the run's printed account.

    Args:
        bars: Show bars. Without a terminal none are drawn in any case, and the lines are all there is.
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
        self._iteration_start = 0.0
        self._stopped_by: str | None = None
        self._sampling_seconds = 0.0
        self._batch: IterationBatch | None = None
        self._falling = 0

    # ---- the run ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        if not trainer.is_global_zero:
            self.console.quiet = True

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        data = trainer.datamodule
        for line in data.cleaned.lines():
            self._say(line)
        if data.dropped_too_long:
            self._warn(f"{data.dropped_too_long} training prompts are longer than {data.max_prompt_tokens} "
                      "tokens (data.max_prompt_tokens) and were dropped")  # fmt: skip
        parameters = sum(parameter.numel() for parameter in module.policy.parameters())
        self._say(
            f"{module.policy_name}: {parameters:,} parameters, {len(trainer.datamodule.prompts):,} training prompts; "
            f"run directory {trainer.run_dir}"
        )
        if trainer.resumed_from is not None:
            self._say(f"resumed from {trainer.resumed_from}: iteration {trainer.current_epoch} is done")

    def on_train_epoch_start(self, trainer: Trainer, module: PolicyModule) -> None:
        self._iteration_start = time.perf_counter()

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
        rate = self._tokens / max(time.perf_counter() - self._task_start, 1e-9)
        self._advance(responses, f"{rate:,.0f} tokens/s")

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        self._batch = batch
        self._sampling_seconds = time.perf_counter() - self._iteration_start
        self._begin(f"iteration {batch.iteration}/{trainer.max_iterations}  updates", len(batch.updates))
        if 0 < len(batch.groups) < batch.wanted:
            self._warn(
                f"iteration {batch.iteration}: only {len(batch.groups)} of {batch.wanted} groups after "
                f"{len(batch.sampled)} prompts ({_outcomes(batch)}); training on those"
            )

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: dict[str, Any], batch: list[Group], batch_idx: int
    ) -> None:
        self._advance(1, f"loss {outputs['loss']:.3f}  kl {outputs['kl']:.1e}  |g| {outputs['grad_norm']:.2f}")

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert self._batch is not None
        seconds = time.perf_counter() - self._iteration_start
        line = (
            f"iteration {trainer.current_epoch:>3}/{trainer.max_iterations}  "
            f"correct {figures['rollouts/correct']:6.1%}  reward {figures['rollouts/reward']:.3f}  "
            f"length {figures['rollouts/length']:.0f}  groups {len(self._batch.groups)} ({_outcomes(self._batch)})"
        )
        if self._batch.groups:
            line += f"  loss {figures['iteration/loss']:.3f}  kl {figures['iteration/kl']:.1e}"
        self._say(f"{line}  {seconds:.1f}s ({self._sampling_seconds:.1f}s rollouts)")
        self._watch_positives(figures.get("iteration/positive_log_ratio"))

    def on_stale_samples(self, trainer: Trainer, module: PolicyModule, folder: Path) -> None:
        self._say(f"{folder} held samples of another policy, benchmark or setting: evaluating anew")

    def on_validation_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        evaluation = _find(trainer, BenchmarkEvaluation)
        if evaluation is not None and evaluation.history:
            latest = evaluation.history[-1]
            title = (
                f"after iteration {latest['iteration']}"
                if trainer.training
                else str(trainer.resumed_from or module.policy_name)
            )
            title += f", temperature {evaluation.sampling.temperature:g}"
            self.console.print(evaluation_table(latest["benchmarks"], evaluation.repeats, title))
        if not trainer.training:
            self._compare(evaluation)
            self._say(f"written to {trainer.run_dir}")

    def _compare(self, evaluation: BenchmarkEvaluation | None) -> None:
        if evaluation is None or evaluation.against is None or evaluation.samples is None or self.console.quiet:
            return
        a, b = evaluation.against, evaluation.samples
        self.console.print(comparison_table(compare(a, b), str(a.path), str(b.path)))
        for line in settings_that_differ(a, b):
            self._warn(f"not the policy alone differs: {line}")

    def on_fit_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._end()
        if trainer.datamodule.pool.left == 0:
            self._say("every training prompt is mastered: the run is complete")
        evaluation, export = _find(trainer, BenchmarkEvaluation), _find(trainer, ExportPolicy)
        if evaluation is not None and len(evaluation.history) > 1:
            self._say("\n" + "\n".join(_before_and_after(evaluation)))
        self._say(f"\nrun directory   {trainer.run_dir}  (metrics.csv, evaluations.jsonl, rollouts/, checkpoints/)")
        if export is not None and export.folder is not None:
            self._say(f"trained policy  {export.folder}\n\nuse it with plain transformers:\n")
            self._say(_usage(str(export.folder), trainer))

    def on_exception(self, trainer: Trainer, module: PolicyModule, exception: BaseException) -> None:
        self._end()
        causes = {
            Stopped: str(exception),
            KeyboardInterrupt: "a second interrupt",
            EngineError: "a failure of the engine",
        }
        self._stopped_by = causes.get(type(exception))

    def teardown(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        self._end()
        if stage == str(TrainerFn.VALIDATING) and trainer.state.status != TrainerStatus.FINISHED:
            self._say(f"broken off; the same command goes on with {trainer.run_dir}")
        # Only now has every callback heard of it, and saved what it saves.
        if self._stopped_by is not None and (trainer.run_dir / "checkpoints" / "last").exists():
            self._say(
                f"stopped by {self._stopped_by} after iteration {trainer.current_epoch}; "
                f"go on with --ckpt_path {trainer.run_dir}"
            )

    # ---- bars and lines ---------------------------------------------------------------------------------------------

    def _watch_positives(self, log_ratio: float | None) -> None:
        """The alarm of likelihood displacement: the policy moves away from the very answers it should learn."""
        self._falling = self._falling + 1 if log_ratio is not None and log_ratio < 0 else 0
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
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
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


def _find(trainer: Trainer, kind: type[Any]) -> Any:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)


def _before_and_after(evaluation: BenchmarkEvaluation) -> list[str]:
    first, last = evaluation.history[0], evaluation.history[-1]
    return [
        f"{name}: sampled pass@1 {first['benchmarks'][name]['avg']:.1%} -> {last['benchmarks'][name]['avg']:.1%} "
        f"(avg@{evaluation.repeats} at temperature {evaluation.sampling.temperature:g}, "
        f"{last['benchmarks'][name]['problems']:.0f} problems; std over repeats "
        f"{first['benchmarks'][name]['std']:.1%} and {last['benchmarks'][name]['std']:.1%})"
        for name in last["benchmarks"]
        if name in first["benchmarks"]
    ]


def _usage(folder: str, trainer: Trainer) -> str:
    data = trainer.datamodule
    prompt = next(iter(data.prompts.values()))
    return (
        "    from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"    tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
        f"    policy = AutoModelForCausalLM.from_pretrained({folder!r})\n"
        f"    prompt = tokenizer({data.template.render(data.tokenizer, prompt.problem.problem)!r}, "
        "return_tensors='pt', add_special_tokens=False)\n"
        "    answer = policy.generate(**prompt, max_new_tokens=256)\n"
        "    print(tokenizer.decode(answer[0], skip_special_tokens=True))"
    )
