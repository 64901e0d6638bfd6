"""Evaluation on benchmarks: before training, every few iterations and at the end, or on its own by `validate`."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.distributed import check_same, collectives, gather, on_rank_zero, rank_and_world
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
        self.sources, self.held_out = benchmarks or {}, held_out or {}
        self.every, self.repeats, self.sampling, self.limit = every, repeats, sampling, limit
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
            removed = "held samples of a different policy, benchmark or setting, which were removed"
            warnings.warn(f"{samples.path} {removed}", stacklevel=2)
        gather(None)  # the folder is ready
        trainer.datamodule.sampler.sync()
        sampled, speed = self._sample(trainer, samples)
        trainer.datamodule.sampler.release()
        results = {name: self._figures(trainer, samples, name, problems) for name, problems in sampled.items()}
        first = self.history[0]["benchmarks"] if self.history else None
        self._evaluated = iteration
        self.history.append({"iteration": iteration, "benchmarks": results})
        if trainer.is_global_zero:
            append_evaluation(trainer.run_dir / "evaluations.jsonl", iteration, results)
        figures = {f"evaluation/{name}/{key}": value for name, row in results.items() for key, value in row.items()}
        figures |= {"evaluation/average": macro_average(results), **speed}
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
                **({"environment": data.dialogues.label} if data.dialogues is not None else {}),
            },
            benchmarks={name: fingerprint(prompts) for name, prompts in self._prompts.items()},
        )

    def _sample(
        self, trainer: Trainer, samples: SampleFolder
    ) -> tuple[dict[str, dict[str, EvaluatedProblem]], dict[str, float]]:
        """Samples the problems that are not complete yet, those of all benchmarks in one stream, at whose end alone the
        engine runs half empty. Returns this rank's problems by benchmark and id, with those that were complete before
        on rank 0, and figures of the sampling."""
        trainer.stop_if_requested()
        data, (rank, _) = trainer.datamodule, rank_and_world()
        problems = {name: samples.read(name) if rank == 0 else {} for name in self._prompts}
        complete = on_rank_zero(lambda: {name: set(done) for name, done in problems.items()})
        benchmark = {id(prompt): name for name, prompts in self._prompts.items() for prompt in prompts}
        prompts = [prompt for prompts in self._prompts.values() for prompt in prompts]
        missing = [prompt for prompt in prompts if prompt.problem.id not in complete[benchmark[id(prompt)]]]
        trainer.call("on_evaluation_start", list(self._prompts), len(missing) * self.repeats)
        if not missing:
            return problems, {}

        def same(answers: Sequence[tuple[str, str]]) -> list[bool]:
            return call_plugin(data.reward, "same()", lambda: data.reward.same(answers))

        def keep(group: Group, responses: list[Response]) -> None:
            name, problem, asked = benchmark[id(group.prompt)], group.prompt.problem, responses[0].prompt_text
            row = evaluated_problem(problem, asked, group.responses, group.rollouts, group.scores, same)
            problems[name][problem.id] = row
            samples.append(name, rank, row)
            group.drop_tokens()  # their number alone is sent to the other ranks

        def stream(prompt: Prompt) -> str:
            return f"seed {data.seed}, benchmark {benchmark[id(prompt)]}"

        start = time.perf_counter()
        with trainer.fabric.autocast():
            draw = data.sampler.sample(missing, self.repeats, self.sampling, stream, trainer.on_tokens, keep)
        tokens = sum(length for group in draw.groups for length in group.lengths)
        return problems, {"evaluation/tokens_per_second": tokens / (time.perf_counter() - start)}

    def _figures(
        self, trainer: Trainer, samples: SampleFolder, name: str, problems: Mapping[str, EvaluatedProblem]
    ) -> dict[str, float]:
        """Writes the samples of a benchmark as one file; returns its figures, on every rank."""
        numbers = {prompt.problem.id: number for number, prompt in enumerate(self._prompts[name])}
        on_rank_zero(lambda: samples.finish(name, list(numbers), rank_and_world()[1]))
        metrics = BenchmarkMetrics(self.repeats).to(trainer.fabric.device)
        metrics.update({numbers[each]: problem for each, problem in problems.items()})
        with collectives():
            return metrics.compute()

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._evaluated, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._evaluated, self.history = state_dict["evaluated"], state_dict["history"]
