"""The work by TRL."""

import tempfile
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from benchmarks.versus_trl.cases import Case, problems
from benchmarks.versus_trl.timing import IterationTime, Stopwatch
from rence_lightning.parts import Problem
from rence_lightning.rewards import MathReward, Response


class TimedTrainer(GRPOTrainer):
    """TRL's trainer, which notes how long the parts of an iteration take."""

    watch: Stopwatch
    _scoring = False
    _prompt_ids: list[list[int]]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.watch.start_iteration()
        self._scoring = True
        outputs = super()._generate_and_score_completions(inputs)
        self._scoring = False
        self.watch.sampled(self._prompt_ids[:: self.num_generations], int(outputs["completion_mask"].sum()))
        return outputs

    def _generate(self, *arguments: Any) -> Any:
        with self.watch.measures("generate"):
            outputs = super()._generate(*arguments)
        self._prompt_ids = outputs[0]
        return outputs

    def _calculate_rewards(self, *arguments: Any) -> Any:
        with self.watch.measures("reward"):
            return super()._calculate_rewards(*arguments)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **settings: Any) -> Any:
        if not self._scoring:
            return super()._get_per_token_logps_and_entropies(*arguments, **settings)
        with self.watch.measures("log-probs"):
            return super()._get_per_token_logps_and_entropies(*arguments, **settings)


def run(case: Case, iterations: int) -> list[IterationTime]:
    """The times of so many iterations, after one that warms up.

    Settings that only cost time are off, and each update is one forward and backward pass. TRL takes the
    log-probabilities of pi_old in a pass of their own, because it takes several updates on one batch of rollouts.
    """
    policy, watch, reward = case.load(padded=True), Stopwatch(), MathReward()
    with tempfile.TemporaryDirectory() as folder:
        rows = problems(case, iterations + 1)
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=case.prompts_per_update * case.group_size,
            steps_per_generation=case.updates,
            num_generations=case.group_size,
            max_completion_length=case.response_tokens,
            generation_kwargs={"min_new_tokens": case.response_tokens} if case.forced else None,
            max_steps=case.updates * (iterations + 1),
            learning_rate=case.learning_rate,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            num_iterations=1,
            shuffle_dataset=False,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )

        def score(completions: list[str], answer: list[str], **_: Any) -> list[float | None]:
            pairs = zip(answer, completions, strict=True)
            responses = [Response(Problem("", "", gold), completion) for gold, completion in pairs]
            return [each.reward for each in reward.score(responses)]

        trainer = TimedTrainer(
            model=policy.model,
            reward_funcs=score,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": text, "answer": answer} for text, answer in rows]),
            processing_class=policy.tokenizer,
        )
        trainer.watch = watch
        trainer.train()
        watch.end()
    return watch.times[1:]
