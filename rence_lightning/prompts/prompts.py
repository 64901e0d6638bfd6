"""Prompts: problems as the token ids that the policy receives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rence_lightning.errors import UserError
from rence_lightning.parts import Problem
from rence_lightning.prompts.template import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIMIT = "of data.max_prompt_tokens or what the context leaves beside the response"


@dataclass(frozen=True)
class Prompt:
    """A problem in the form that the policy receives.

    Attributes:
        index: Position of the problem in the list of all problems, the same for every `max_prompt_tokens`.
        problem: Problem that the prompt asks.
        token_ids: Token ids of the whole prompt with its template, `(tokens,)`; the response follows the last one.
    """

    index: int
    problem: Problem
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class EncodedPrompts:
    """The prompts of a list of problems.

    Attributes:
        prompts: Prompts within the length limit, in the order of the problems.
        too_long: Number of prompts that were dropped because they are longer.
    """

    prompts: list[Prompt]
    too_long: int


def encode_prompts(
    problems: Sequence[Problem], template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> EncodedPrompts:
    """Encodes problems, possibly of several sources, and drops those longer than `max_prompt_tokens`.

    Raises:
        UserError: There is no problem, two problems have the same id, or no prompt is short enough.
    """
    if not problems:
        raise UserError("prompts: there are no problems; name at least one data set")
    sources: dict[str, str] = {}
    for problem in problems:
        if problem.id in sources:
            both = f"is both in {sources[problem.id]!r} and in {problem.source!r}; is a data set named twice?"
            raise UserError(
                f"prompts: the id {problem.id!r} {both} Otherwise give the sources other names or id fields"
            )
        sources[problem.id] = problem.source
    encoded = template.encode_all(tokenizer, problems)
    prompts = [
        Prompt(index, problem, tuple(token_ids))
        for index, (problem, token_ids) in enumerate(zip(problems, encoded, strict=True))
        if len(token_ids) <= max_prompt_tokens
    ]
    if not prompts:
        raise UserError(
            f"prompts: all {len(problems)} are longer than {max_prompt_tokens} tokens, the limit {LIMIT} (the shortest "
            f"has {min(map(len, encoded))} with the template); raise the limit, or shorten the template"
        )
    return EncodedPrompts(prompts, len(problems) - len(prompts))


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """The number of prompts, and a digest of them and of all that rewards see of their problems."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        problem = prompt.problem
        # The text of a value that JSON does not hold may differ between processes, hence its type.
        fields = json.dumps(dict(problem.fields), sort_keys=True, default=lambda value: type(value).__qualname__)
        digest.update(f"{prompt.index} {problem.id} {problem.answer} {fields} {prompt.token_ids}".encode())
    return f"{len(prompts)} {digest.hexdigest()}"
