"""Evaluation on benchmarks: before training, every few iterations and at the end; or alone, by `validate`."""

import time
from typing import Any

import torch

from rence_lightning.callbacks.base import Callback
from rence_lightning.errors import UserError
from rence_lightning.evaluation import (
    BenchmarkMetrics,
    append_evaluation,
    forget_evaluations_after,
    load_benchmark,
    macro_average,
)
from rence_lightning.groups import Group
from rence_lightning.module import PolicyModule
from rence_lightning.prompts import ProblemSource, Prompt, encode_prompts
from rence_lightning.rollouts import Sampling
from rence_lightning.trainer import Trainer


class BenchmarkEvaluation(Callback):
    """Samples every benchmark `repeats` times, and reports the mean and the spread over the repeats.

    Each evaluation draws its samples from the same random streams, so two evaluations differ by the policy alone.

    Args:
        benchmarks: Name -> where its problems come from; null for a name of the registry (`math500`, `aime2024`, ...).
        every: Evaluate every so many iterations, before the first and after the last; 0 never evaluates in training.
        repeats: Samples a problem: k of avg@k and pass@k.
        sampling: Temperature, top-p and length limit in evaluation.
        limit: Take only the first so many problems of each benchmark.
    """

    def __init__(
        self,
        benchmarks: dict[str, ProblemSource | None] | None = None,
        every: int = 5,
        repeats: int = 4,
        sampling: Sampling = Sampling(temperature=0.7),  # noqa: B008  (frozen)
        limit: int | None = None,
    ) -> None:
        if every < 0 or repeats < 1:
            raise UserError(f"evaluation: every ({every}) must be >= 0 and repeats ({repeats}) >= 1")
        if limit is not None and limit < 1:
            raise UserError(f"evaluation: limit is {limit}; it must be >= 1, or null for all problems")
        self.sources = benchmarks or {}
        self.every = every
        self.repeats = repeats
        self.sampling = sampling
        self.limit = limit
        self.history: list[dict[str, Any]] = []
        self._prompts: dict[str, list[Prompt]] = {}
        self._evaluated = -1

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        """Loads the benchmarks before any work is done, so that a wrong name is an error at start."""
        data = trainer.datamodule
        context = module.policy.context_length
        needed = data.max_prompt_tokens + self.sampling.max_response_tokens
        if self.sources and context is not None and needed > context:
            raise UserError(
                f"evaluation: data.max_prompt_tokens {data.max_prompt_tokens} + sampling.max_response_tokens "
                f"{self.sampling.max_response_tokens} = {needed}, but the policy's context is {context} tokens"
            )
        if stage == "validate" and not self.sources:
            raise UserError("evaluation: there is nothing to evaluate; name a benchmark under evaluation.benchmarks")
        for name, source in self.sources.items():
            problems = load_benchmark(name, source)[: self.limit]
            encoded = encode_prompts(problems, data.template, data.tokenizer, data.max_prompt_tokens)
            if encoded.too_long:
                raise UserError(
                    f"evaluation: {encoded.too_long} problems of {name} are longer than data.max_prompt_tokens "
                    f"{data.max_prompt_tokens}, and leaving them out would change the benchmark; raise the limit"
                )
            self._prompts[name] = encoded.prompts

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.resumed_from is None:
            self._evaluate_once(trainer)
        elif trainer.is_global_zero:
            forget_evaluations_after(trainer.run_dir / "evaluations.jsonl", trainer.current_epoch)
        if trainer.resumed_from is not None and trainer.current_epoch:
            self.on_train_epoch_end(trainer, module)  # a run that was told to stop leaves it for later

    def on_train_epoch_end(self, trainer: Trainer, module: PolicyModule) -> None:
        if self.every and trainer.current_epoch % self.every == 0:
            self._evaluate_once(trainer)

    def on_train_end(self, trainer: Trainer, module: PolicyModule) -> None:
        self._evaluate_once(trainer)

    def _evaluate_once(self, trainer: Trainer) -> None:
        if self.every and self.sources and self._evaluated != trainer.current_epoch:
            trainer.evaluate()

    def on_evaluate(self, trainer: Trainer, module: PolicyModule) -> None:
        trainer.datamodule.sampler.sync()
        results = {name: self._run(trainer, name, prompts) for name, prompts in self._prompts.items()}
        trainer.datamodule.sampler.release()
        if not results:
            return
        self._evaluated = trainer.current_epoch
        self.history.append({"iteration": trainer.current_epoch, "benchmarks": results})
        if trainer.is_global_zero:
            append_evaluation(trainer.run_dir / "evaluations.jsonl", trainer.current_epoch, results)
        figures = {f"evaluation/{name}/{key}": value for name, row in results.items() for key, value in row.items()}
        figures["evaluation/average"] = macro_average(results)
        figures["evaluation/iteration"] = float(trainer.current_epoch)
        trainer.log_metrics(figures, trainer.current_epoch)

    def _run(self, trainer: Trainer, name: str, prompts: list[Prompt]) -> dict[str, float]:
        trainer.stop_if_told()
        data, start = trainer.datamodule, time.perf_counter()
        trainer.call("on_benchmark_start", name, len(prompts) * self.repeats)
        with trainer.fabric.autocast():
            groups = data.sampler.sample(
                prompts, self.repeats, self.sampling, f"seed {data.seed}, benchmark {name}", trainer.on_tokens
            )
        seconds = time.perf_counter() - start
        figures = score_groups(groups)
        figures["tokens_per_second"] = sum(group.response_tokens for group in groups) / seconds
        return figures

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._evaluated, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._evaluated, self.history = state_dict["evaluated"], state_dict["history"]


def score_groups(groups: list[Group]) -> dict[str, float]:
    """The figures of one benchmark: `avg`, `std`, `pass`, `boxed`, `truncated`, `length`, and `problems`."""
    metrics = BenchmarkMetrics(len(groups[0].rollouts))
    metrics.update(
        correct=torch.tensor([group.correct for group in groups]),
        boxed=torch.tensor([[score.answer is not None for score in group.scores] for group in groups]),
        truncated=torch.tensor([[r.finish_reason == "length" for r in group.rollouts] for group in groups]),
        lengths=torch.tensor([[len(rollout.token_ids) for rollout in group.rollouts] for group in groups]),
    )
    return {**metrics.compute(), "problems": float(len(groups))}
