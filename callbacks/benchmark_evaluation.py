"""Evaluation on benchmarks: before training, every few iterations and at the end, or on its own by `validate`."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.distributed import check_same, collectives, gather, on_rank_zero, rank_and_world, sum_over_ranks
from rence_lightning.errors import UserError, call_plugin
from rence_lightning.evaluation import (
    Description,
    EvaluatedProblem,
    Evaluation,
    SampleFolder,
    append_evaluation,
    evaluated_problem,
    find_samples,
    forget_evaluations_after,
    load_benchmark,
    macro_average,
)
from rence_lightning.evaluation.figures import BenchmarkMetrics
from rence_lightning.policy import weights_digest
from rence_lightning.prompts import ProblemSource, Prompt, encode_prompts, fingerprint
from rence_lightning.rewards import Response
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class BenchmarkEvaluation(Callback):
    """Samples every benchmark `repeats` times, and reports the mean and the spread over the repeats.

    All evaluations of a run use the same random streams, so that two of them differ only by the policy. Samples are
    saved in the run directory as soon as they are graded: an interrupted evaluation is continued when the same command
    is run again.

    Training problems that occur in a benchmark are left out of training (`data.cleaning`).

    Args:
        benchmarks: Name -> source of its problems; null for a name of the registry (`math500`, `aime2024`, ...).
        every: Number of iterations between evaluations; one more precedes the first iteration and one follows the last.
            0 disables evaluation in training.
        repeats: Number of responses to each problem, the k of avg@k and pass@k.
        sampling: Temperature, top-p and length limit of the responses.
        limit: Number of problems to use from the beginning of each benchmark; null for all.
        held_out: Further benchmarks, given as above, whose problems are left out of training but not evaluated.
        baseline: Earlier run directory, or a folder in its `evaluations/`, that `validate` compares with.
    """

    def __init__(
        self,
        benchmarks: dict[str, ProblemSource | None] | None = None,
        every: int = 5,
        repeats: int = 4,
        sampling: Sampling = Sampling(temperature=0.7),  # noqa: B008  (frozen)
        limit: int | None = None,
        held_out: dict[str, ProblemSource | None] | None = None,
        baseline: str | None = None,
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
        self.baseline = find_samples(Path(baseline)) if baseline is not None else None
        self.history: list[dict[str, Any]] = []
        self._prompts: dict[str, list[Prompt]] = {}
        self._evaluated = -1

    def setup(self, trainer: Trainer, module: PolicyModule, stage: str) -> None:
        """Loads the benchmarks before any work is done, so that a wrong name is an error at start."""
        data = trainer.datamodule
        if stage == "validate" and not self.sources:
            raise UserError("evaluation: no benchmark is configured; name one under evaluation.benchmarks")
        longest = data.prompt_limit(self.sampling, "evaluation") if self.sources else 0
        for name, source in self.sources.items():
            problems = load_benchmark(name, source)
            data.hold_out({name: problems})
            try:
                encoded = encode_prompts(problems[: self.limit], data.template, data.tokenizer, longest)
            except UserError as error:
                raise UserError(f"evaluation: {name}: {error}") from error
            if encoded.too_long:
                raise UserError(
                    f"evaluation: {encoded.too_long} problems of {name} have prompts of more than {longest} tokens "
                    "(data.max_prompt_tokens, or what the policy's context leaves), and leaving them out would change "
                    "the benchmark; raise the limit"
                )
            self._prompts[name] = encoded.prompts
            check_same(fingerprint(encoded.prompts), f"evaluation: problems of {name}")
        if stage == "fit":
            data.hold_out({name: load_benchmark(name, source) for name, source in self.held_out.items()})

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        if trainer.session.resumed_from is not None and trainer.is_global_zero:
            forget_evaluations_after(trainer.run_dir / "evaluations.jsonl", trainer.current_epoch)
        iteration, updates = trainer.progress
        if not updates and (not iteration or (self.every and iteration % self.every == 0)):
            self._evaluate_once(trainer)  # an interrupted run may have left this evaluation undone

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
        iteration = trainer.current_epoch
        samples = SampleFolder(trainer.run_dir / "evaluations" / f"iteration-{iteration:04d}")
        description = self._description(trainer, module)
        if trainer.is_global_zero and samples.open(description):
            trainer.call("on_stale_samples", samples.path)
        gather(None)  # the folder is ready
        trainer.datamodule.sampler.sync()
        results = {name: self._run(trainer, samples, name) for name in self._prompts}
        trainer.datamodule.sampler.release()
        first = self.history[0]["benchmarks"] if self.history else None
        self._evaluated = iteration
        self.history.append({"iteration": iteration, "benchmarks": results})
        if trainer.is_global_zero:
            append_evaluation(trainer.run_dir / "evaluations.jsonl", iteration, results)
        figures = {f"evaluation/{name}/{key}": value for name, row in results.items() for key, value in row.items()}
        figures["evaluation/average"] = macro_average(results)
        figures["evaluation/iteration"] = float(iteration)
        trainer.log_metrics(figures, iteration)
        baseline = None if trainer.training else self.baseline
        evaluation = Evaluation(iteration, results, self.repeats, self.sampling.temperature, samples, first, baseline)
        trainer.call("on_evaluation_end", evaluation)

    def _description(self, trainer: Trainer, module: PolicyModule) -> Description:
        data, template = trainer.datamodule, trainer.datamodule.template
        return Description(
            policy=str(trainer.session.resumed_from or module.policy_name),
            iteration=trainer.current_epoch,
            weights=weights_digest(module.policy),
            engine=type(data.engine).__name__,
            settings={
                "repeats": self.repeats,
                **asdict(self.sampling),
                "seed": data.seed,
                "precision": trainer.precision,
                "reward": data.reward.label,
                "template": template.text,
                "chat": template.is_chat(data.tokenizer),
                "arguments": template.chat_arguments,
                "system": template.system,
            },
            benchmarks={name: fingerprint(prompts) for name, prompts in self._prompts.items()},
        )

    def _run(self, trainer: Trainer, samples: SampleFolder, name: str) -> dict[str, float]:
        """Samples the problems of a benchmark that are not complete yet; returns its figures, on every rank."""
        trainer.stop_if_requested()
        data, prompts = trainer.datamodule, self._prompts[name]
        rank, world = rank_and_world()
        done = samples.read(name) if rank == 0 else {}
        complete = on_rank_zero(lambda: set(done))
        missing = [prompt for prompt in prompts if prompt.problem.id not in complete]
        trainer.call("on_benchmark_start", name, len(missing) * self.repeats)
        mine: list[EvaluatedProblem] = []

        def same(answers: Sequence[tuple[str, str]]) -> list[bool]:
            return call_plugin(data.reward, "same()", lambda: data.reward.same(answers))

        def keep(group: Group, responses: list[Response]) -> None:
            problem, asked = group.prompt.problem, responses[0].prompt_text
            mine.append(evaluated_problem(problem, asked, group.responses, group.rollouts, group.scores, same))
            samples.append(name, rank, mine[-1])

        start = time.perf_counter()
        if missing:
            with trainer.fabric.autocast():
                stream = f"seed {data.seed}, benchmark {name}"
                data.sampler.sample(missing, self.repeats, self.sampling, stream, trainer.on_tokens, keep)
        seconds = time.perf_counter() - start
        numbers = {prompt.problem.id: number for number, prompt in enumerate(prompts)}
        on_rank_zero(lambda: samples.finish(name, list(numbers), world))
        metrics = BenchmarkMetrics(self.repeats).to(trainer.fabric.device)
        metrics.update({numbers[each.id]: each for each in [*done.values(), *mine]})
        with collectives():
            figures = metrics.compute()
        if missing:
            tokens = sum(sample.tokens for problem in mine for sample in problem.samples)
            figures["tokens_per_second"] = sum_over_ranks(tokens)[0] / seconds
        return figures

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._evaluated, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._evaluated, self.history = state_dict["evaluated"], state_dict["history"]
