"""The policy of a finished run, to be asked from Python."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rence_lightning.errors import UserError
from rence_lightning.parts import Problem
from rence_lightning.policy import Policy, export_policy
from rence_lightning.prompts import Prompt
from rence_lightning.rewards import Response
from rence_lightning.rollouts import Request
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.sampling.sampler import seed_of
from rence_lightning.sampling.scoring import responses_of
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import is_sharded


class TrainedPolicy:
    """The policy as a run left it, in memory, with the template and the engine of the run.

    Args:
        module: Module of the run.
        data: Data module of the run.

    Attributes:
        model: Language model of `transformers`.
        tokenizer: Tokenizer of the model.
    """

    def __init__(self, module: PolicyModule, data: RolloutDataModule) -> None:
        wrapped: Any = module.policy
        self._policy = cast(Policy, getattr(wrapped, "module", wrapped))
        self.model, self.tokenizer = self._policy.model, self._policy.tokenizer
        self._data = data

    def generate(
        self,
        problems: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        samples: int = 1,
        temperature: float | None = None,
        max_response_tokens: int | None = None,
        seed: int = 0,
    ) -> list[list[Response]]:
        """Samples responses to problems, asked with the template of the run.

        Args:
            problems: A problem as text or as a row with the field `problem`, or a list of them.
            samples: Number of responses to each problem.
            temperature: Sampling temperature (default: that of training; 0 takes the most likely token).
            max_response_tokens: Largest length of a response (default: that of training).
            seed: Seed of the samples.

        Returns:
            The responses to each problem, `(problems, samples)`.

        Raises:
            UserError: A problem is no text or too long for the policy's context, or the weights are spread over several
                processes.
        """
        if is_sharded(self._policy):
            raise UserError("generate: the weights are sharded over processes; load the exported policy instead")
        asked = [problems] if isinstance(problems, str | Mapping) else list(problems)
        rows = [_problem(number, each) for number, each in enumerate(asked)]
        changes: dict[str, Any] = {"temperature": temperature, "max_response_tokens": max_response_tokens}
        sampling = replace(self._data.sampling, **{key: each for key, each in changes.items() if each is not None})
        prompts = self._data.template.encode_all(self.tokenizer, rows)
        context = self._policy.context_length or math.inf
        for number, prompt in enumerate(prompts):
            if len(prompt) + sampling.max_response_tokens > context:
                raise UserError(
                    f"generate: problem {number} has {len(prompt)} tokens with the template; with "
                    f"{sampling.max_response_tokens} of the response they exceed the policy's context of {context}; "
                    "shorten the problem, or lower max_response_tokens"
                )
        seeds = [seed_of(f"generate, seed {seed}", str(number)) for number in range(len(rows))]
        requests = [Request(prompt, samples, sampling, one) for prompt, one in zip(prompts, seeds, strict=True)]
        engine, answers = self._data.engine, [list[Response]() for _ in rows]
        engine.sync(self._policy)
        for group in (group for step in engine.generate(requests) for group in step.finished):
            asked_as = Prompt(group.index, rows[group.index], tuple(prompts[group.index]))
            answers[group.index] = responses_of(self.tokenizer, asked_as, group.rollouts)
        engine.release()
        return answers

    def close(self) -> None:
        """Frees the engine, after which `generate` cannot be called: the last act of a script whose run had several
        processes and a vLLM engine, which must end before the processes part."""
        if (close := getattr(self._data.engine, "close", None)) is not None:
            close()

    def save(self, folder: str | Path) -> Path:
        """Writes the policy in the Hugging Face format: weights, configuration and tokenizer. Returns the folder."""
        if is_sharded(self._policy):
            raise UserError("save: the weights are sharded over processes; the run directory has the exported policy")
        export_policy(self._policy, Path(folder))
        return Path(folder)


def _problem(number: int, given: str | Mapping[str, Any]) -> Problem:
    row = {"problem": given} if isinstance(given, str) else dict(given)
    if not isinstance(row.get("problem"), str):
        raise UserError(f"generate: problem {number} is {given!r:.80}; give a text, or a row with the field 'problem'")
    return Problem(str(row.get("id", number)), row["problem"], str(row.get("answer", "")), fields=row)
