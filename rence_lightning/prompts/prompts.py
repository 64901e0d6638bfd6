"""Prompts: problems as the token ids that go to the policy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rence_lightning.errors import UserError
from rence_lightning.prompts.problems import Problem
from rence_lightning.prompts.template import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A problem, ready for the policy.

    Attributes:
        index: The problem's position in the list it came from. It does not move when other prompts are dropped, so it
            names the same problem for every `max_prompt_tokens`.
        problem: The problem.
        token_ids: The whole prompt with template, `(tokens,)`; the response follows its last token.
    """

    index: int
    problem: Problem
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class EncodedPrompts:
    """The prompts that fit, in the problems' order, and how many were dropped because they are `too_long`."""

    prompts: list[Prompt]
    too_long: int


def encode_prompts(
    problems: Sequence[Problem], template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> EncodedPrompts:
    """Encode problems, possibly of several sources, and drop those longer than `max_prompt_tokens`.

    Raises:
        UserError: There is no problem, two have the same id, or no prompt is short enough.
    """
    if not problems:
        raise UserError("prompts: there are no problems; name at least one data set")
    _check_ids(problems)
    encoded = template.encode_all(tokenizer, [problem.problem for problem in problems])
    prompts = [
        Prompt(index, problem, tuple(token_ids))
        for index, (problem, token_ids) in enumerate(zip(problems, encoded, strict=True))
        if len(token_ids) <= max_prompt_tokens
    ]
    if not prompts:
        raise UserError(
            f"prompts: all {len(problems)} are longer than max_prompt_tokens {max_prompt_tokens} (the shortest has "
            f"{min(map(len, encoded))} tokens with the template); raise max_prompt_tokens"
        )
    return EncodedPrompts(prompts, len(problems) - len(prompts))


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """The number of prompts, and a digest of them."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(f"{prompt.index} {prompt.problem.id} {prompt.problem.answer} {prompt.token_ids}".encode())
    return f"{len(prompts)} {digest.hexdigest()}"


def _check_ids(problems: Sequence[Problem]) -> None:
    sources: dict[str, str] = {}
    for problem in problems:
        if problem.id in sources:
            raise UserError(
                f"prompts: the id {problem.id!r} stands in {sources[problem.id]!r} and in {problem.source!r}; is a "
                "data set named twice? Otherwise give the sources other names or id fields"
            )
        sources[problem.id] = problem.source
