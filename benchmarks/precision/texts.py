"""The texts of the study: what the policy is trained on, and on what its movement is measured."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from rence_lightning.errors import UserError
from rence_lightning.policy import Policy
from rence_lightning.policy.packed_row import PackedRow, Segment
from rence_lightning.problem import Problem
from rence_lightning.prompts import PromptTemplate
from rence_lightning.prompts.files import iter_file
from rence_lightning.rollouts import Request, Sampling, TransformersEngine

SPLIT_SEED = 0
"""Seed of the division of the problems into those of training and those held out, the same for all trajectories."""

HELD_OUT = 200
"""Number of problems that are held out."""


@dataclass(frozen=True)
class Text:
    """A text whose log-probability is measured.

    Attributes:
        kind: `problem` for problem statements, joined and cut; `response` for a response that pi_0 sampled.
        prompt: Token ids that are given.
        tokens: Token ids that are predicted.
    """

    kind: Literal["problem", "response"]
    prompt: list[int]
    tokens: list[int]


class Example(NamedTuple):
    """A problem, and its solution (its answer where the file has no solutions)."""

    problem: str
    solution: str

    def __str__(self) -> str:
        return f"{self.problem}\n\n{self.solution}"


def read_problems(file: Path) -> tuple[list[Example], list[Example]]:
    """The problems of a file: for training, and held out."""
    examples = []
    for where, _, row in iter_file(file):
        if not isinstance(problem := row.get("problem"), str):
            raise UserError(
                f"{where}: no field `problem` with a text; give a file of problems, as docs/precision.md has"
            )
        examples.append(Example(problem, str(row.get("solution", row.get("answer", "")))))
    if len(examples) < 2 * HELD_OUT:
        raise UserError(f"{file}: {len(examples)} problems; give a file of at least {2 * HELD_OUT}")
    random.Random(SPLIT_SEED).shuffle(examples)
    return examples[HELD_OUT:], examples[:HELD_OUT]


def stream(policy: Policy, examples: list[Example], length: int) -> Iterator[list[int]]:
    """Blocks of token ids of examples that are joined by the end-of-sequence token."""
    ends = [policy.tokenizer.eos_token_id or 0]
    ids = chain.from_iterable(chain(policy.tokenizer(str(each)).input_ids, ends) for each in examples)
    while len(block := [token for token, _ in zip(ids, range(length), strict=False)]) == length:
        yield block


def training_rows(policy: Policy, examples: list[Example], tokens: int, seed: int) -> Iterator[PackedRow]:
    """Rows of so many predicted tokens, without end, in an order that depends on the seed."""
    order = random.Random(seed)
    while True:
        for block in stream(policy, order.sample(examples, len(examples)), tokens + 1):
            yield PackedRow([Segment(block[:1], [block[1:]])], torch.device("cpu"))


def measured_texts(policy: Policy, held_out: list[Example], count: int, tokens: int) -> list[Text]:
    """Held-out texts, `count` of each kind; responses are sampled from the policy at temperature 1."""
    blocks = stream(policy, held_out, tokens + 1)
    problems = [Text("problem", block[:1], block[1:]) for block, _ in zip(blocks, range(count), strict=False)]
    # From the end, so that a problem is not both a text and a prompt.
    template = PromptTemplate(chat=None)  # the paper's, to which responses are long
    chosen = [Problem(str(number), each.problem, each.solution) for number, each in enumerate(held_out[-count:])]
    prompts = template.encode_all(policy.tokenizer, chosen)
    engine = TransformersEngine(max_sequences=count)
    engine.sync(policy)
    sampling = Sampling(temperature=1.0, max_response_tokens=tokens)
    requests = [Request(prompt, 1, sampling, seed=number) for number, prompt in enumerate(prompts)]
    groups = {group.index: group for step in engine.generate(requests) for group in step.finished}
    responses = [
        Text("response", list(prompt), list(groups[number].rollouts[0].token_ids))
        for number, prompt in enumerate(prompts)
    ]
    return problems + responses


def packed(texts: list[Text]) -> PackedRow:
    """The texts in one row; their log-probabilities come in the same order."""
    return PackedRow([Segment(text.prompt, [text.tokens]) for text in texts], torch.device("cpu"))
