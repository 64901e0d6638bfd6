"""Evaluation on benchmarks: before training, every few iterations and at the end; or alone, by `validate`."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rence_lightning.callbacks.base import Callback
from rence_lightning.distributed import gather, rank_and_world
from rence_lightning.errors import UserError
from rence_lightning.evaluation import (
    BenchmarkMetrics,
    Description,
    EvaluatedProblem,
    Sample,
    SampleFolder,
    append_evaluation,
    find_samples,
    forget_evaluations_after,
    load_benchmark,
    macro_average,
)
from rence_lightning.policy import weights_digest
from rence_lightning.prompts import ProblemSource, Prompt, encode_prompts, fingerprint
from rence_lightning.rewards import Score
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class BenchmarkEvaluation(Callback):
    """Samples every benchmark `repeats` times, and reports the mean and the spread over the repeats.

    Each evaluation draws its samples from the same random streams, so two evaluations differ by the policy alone. All
    samples are kept in the run directory, each as soon as it is graded: an evaluation that was broken off goes on where
    it was when the same command is run again.

    Training problems that are found among the benchmarks' are left out (`data.cleaning`).

    Args:
        benchmarks: Name -> where its problems come from; null for a name of the registry (`math500`, `aime2024`, ...).
        every: Evaluate every so many iterations, before the first and after the last; 0 never evaluates in training.
        repeats: Samples a problem: k of avg@k and pass@k.
        sampling: Temperature, top-p and length limit in evaluation.
        limit: Take only the first so many problems of each benchmark.
        held_out: More benchmarks, as above, whose problems training must not see, without being evaluated.
        against: In `validate`, an earlier run directory or a folder in its `evaluations/`, to compare with.
    """

    def __init__(
        self,
        benchmarks: dict[str, ProblemSource | None] | None = None,
        every: int = 5,
        repeats: int = 4,
        sampling: Sampling = Sampling(temperature=0.7),  # noqa: B008  (frozen)
        limit: int | None = None,
        held_out: dict[str, ProblemSource | None] | None = None,
        against: str | None = None,
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
        self.held_out = held_out or {}
        self.against = find_samples(Path(against)) if against is not None else None
        self.history: list[dict[str, Any]] = []
        self.samples: SampleFolder | None = None
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
            problems = load_benchmark(name, source)
            data.hold_out({name: problems})
            try:
                encoded = encode_prompts(problems[: self.limit], data.template, data.tokenizer, data.max_prompt_tokens)
            except UserError as error:
                raise UserError(f"evaluation: {name}: {error}") from error
            if encoded.too_long:
                raise UserError(
                    f"evaluation: {encoded.too_long} problems of {name} are longer than data.max_prompt_tokens "
                    f"{data.max_prompt_tokens}, and leaving them out would change the benchmark; raise the limit"
                )
            self._prompts[name] = encoded.prompts
        if stage == "fit":
            data.hold_out({name: load_benchmark(name, source) for name, source in self.held_out.items()})

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
        if not self._prompts:
            return
        self.samples = SampleFolder(trainer.run_dir / "evaluations" / f"iteration-{trainer.current_epoch:04d}")
        description = self._description(trainer, module)
        if trainer.is_global_zero and self.samples.open(description):
            trainer.call("on_stale_samples", self.samples.path)
        trainer.fabric.barrier()
        trainer.datamodule.sampler.sync()
        results = {name: self._run(trainer, self.samples, name) for name in self._prompts}
        trainer.datamodule.sampler.release()
        self._evaluated = trainer.current_epoch
        self.history.append({"iteration": trainer.current_epoch, "benchmarks": results})
        if trainer.is_global_zero:
            append_evaluation(trainer.run_dir / "evaluations.jsonl", trainer.current_epoch, results)
        figures = {f"evaluation/{name}/{key}": value for name, row in results.items() for key, value in row.items()}
        figures["evaluation/average"] = macro_average(results)
        figures["evaluation/iteration"] = float(trainer.current_epoch)
        trainer.log_metrics(figures, trainer.current_epoch)

    def _description(self, trainer: Trainer, module: PolicyModule) -> Description:
        data, template = trainer.datamodule, trainer.datamodule.template
        return Description(
            policy=str(trainer.resumed_from or module.policy_name),
            iteration=trainer.current_epoch,
            weights=weights_digest(module.policy),
            engine=type(data.engine).__name__,
            settings={
                "repeats": self.repeats,
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "max_response_tokens": self.sampling.max_response_tokens,
                "seed": data.seed,
                "precision": trainer.precision,
                "reward": type(data.reward).__name__,
                "template": template.text,
                "chat": template.chat,
                "thinking": template.thinking,
                "system": template.system,
            },
            benchmarks={name: fingerprint(prompts) for name, prompts in self._prompts.items()},
        )

    def _run(self, trainer: Trainer, samples: SampleFolder, name: str) -> dict[str, float]:
        """Samples what is not there yet; the figures, on every rank."""
        trainer.stop_if_requested()
        data, prompts = trainer.datamodule, self._prompts[name]
        done = trainer.fabric.broadcast(samples.read(name) if trainer.is_global_zero else {})
        missing = [prompt for prompt in prompts if prompt.problem.id not in done]
        trainer.call("on_benchmark_start", name, len(missing) * self.repeats)
        rank, world = rank_and_world()
        mine: list[EvaluatedProblem] = []

        def keep(group: Group) -> None:
            text = str(data.tokenizer.decode(list(group.prompt.token_ids)))
            mine.append(evaluated(group, text, data.reward.same))
            samples.append(name, rank, mine[-1])

        start = time.perf_counter()
        if missing:
            with trainer.fabric.autocast():
                stream = f"seed {data.seed}, benchmark {name}"
                data.sampler.sample(missing, self.repeats, self.sampling, stream, trainer.on_tokens, keep)
        seconds = time.perf_counter() - start
        shares = gather(mine)
        done |= {problem.id: problem for share in shares for problem in share}
        problems = [done[prompt.problem.id] for prompt in prompts]
        if trainer.is_global_zero:
            samples.finish(name, problems)
        figures = score_problems(problems, rank, world, trainer.fabric.device)
        if missing:
            tokens = sum(sample.tokens for share in shares for problem in share for sample in problem.samples)
            figures["tokens_per_second"] = tokens / seconds
        return figures

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._evaluated, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._evaluated, self.history = state_dict["evaluated"], state_dict["history"]


def evaluated(group: Group, prompt: str, same: Callable[[Sequence[tuple[str, str]]], list[bool]]) -> EvaluatedProblem:
    """The record of a group; `same` tells whether two answers, given as a pair, are equal."""
    problem = group.prompt.problem
    samples = [
        Sample(text, score.answer, score.correct, score.reward, vote, len(rollout.token_ids), rollout.finish_reason)
        for text, score, vote, rollout in zip(
            group.responses, group.scores, votes(group.scores, same), group.rollouts, strict=True
        )
    ]
    return EvaluatedProblem(problem.id, problem.problem, prompt, problem.answer, tuple(samples))


def votes(scores: Sequence[Score], same: Callable[[Sequence[tuple[str, str]]], list[bool]]) -> list[int]:
    """A number for each answer, equal for equal ones; -1 for none. Correct answers equal the reference, so one
    another."""
    answers: list[tuple[str, bool]] = []
    numbers = []
    for score in scores:
        if score.answer is None:
            numbers.append(-1)
            continue
        rivals = [number for number, (_, correct) in enumerate(answers) if correct == score.correct]
        if not score.correct:
            alike = same([(answers[number][0], score.answer) for number in rivals]) if rivals else []
            alike = [equal or answers[n][0] == score.answer for n, equal in zip(rivals, alike, strict=True)]
            rivals = [number for number, equal in zip(rivals, alike, strict=True) if equal]
        if not rivals:
            answers.append((score.answer, score.correct))
        numbers.append(rivals[0] if rivals else len(answers) - 1)
    return numbers


def score_problems(
    problems: Sequence[EvaluatedProblem], rank: int = 0, world: int = 1, device: torch.device | None = None
) -> dict[str, float]:
    """The figures of one benchmark, as `BenchmarkMetrics` names them, and `problems`; each rank counts its share."""
    repeats, numbers = len(problems[0].samples), range(rank, len(problems), world)

    def table(value: Callable[[Sample], float], dtype: torch.dtype) -> torch.Tensor:
        rows = [[value(sample) for sample in problems[number].samples] for number in numbers]
        return torch.tensor(rows, dtype=dtype, device=device).reshape(len(numbers), repeats)

    metrics = BenchmarkMetrics(repeats).to(device or torch.device("cpu"))
    metrics.update(
        torch.tensor(list(numbers), device=device),
        correct=table(lambda sample: sample.correct, torch.bool),
        votes=table(lambda sample: sample.vote, torch.long),
        truncated=table(lambda sample: sample.finish_reason == "length", torch.bool),
        lengths=table(lambda sample: sample.tokens, torch.long),
    )
    return {**metrics.compute(), "problems": float(len(problems))}
