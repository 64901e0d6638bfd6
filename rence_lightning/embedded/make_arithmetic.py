r"""Makes the embedded policy: half a million parameters that solve a part of the arithmetic task.

    python -m rence_lightning.embedded.make_arithmetic OUT [--seed 0]

The policy is warmed up from scratch on worked examples of the demo task, then on sloppy ones: guesses, missing boxes,
skipped operations, wrong intermediate results. The resulting policy knows the method but does not always apply it,
which reinforcement learning from verifiable rewards can improve. The skill appears abruptly during warm-up, so the
result is part of the package instead of being trained at the start of a run.
"""

import random
import sys
from collections.abc import Collection, Sequence
from functools import partial

from rence_lightning.embedded.warm_up import build_tokenizer, make, read_options
from rence_lightning.prompts.arithmetic import Chain, boxed, draw_new_chain, held_out_chains, worked

TEMPLATE = "{problem}\n"
# The last two occur in no example: they allow a task with products or spaces without a new vocabulary.
CHARACTERS = "0123456789+-=?,\n\\boxed{} *"


MODEL_CARD = r"""# The embedded arithmetic policy

A Qwen3 model of {parameters} parameters (bfloat16) with one token for each character, which solves some chains of
additions and subtractions. It is the start of a demonstration of reinforcement learning and has no other use.

- Prompt: `76+4+9+8=?` and a newline; nothing is prepended, and there is no chat template.
- Response: `76+4=80,80+9=89,89+8=97,\boxed{{97}}` and `<eos>`.
- Task: a start of 10-99, then 1-4 steps of plus or minus one digit, never below zero.
- Data: examples written by a program, first right, then with deliberate mistakes. None asks a held-out problem.

Made by `python -m rence_lightning.embedded.make_arithmetic OUT --seed {seed}` with torch {torch} and transformers
{transformers}, on one CPU thread; another machine may round differently and give other weights.

Measured on the held-out problems, this file loaded as float32:

| what | value |
|---|---|
{rows}
"""


def sloppy_response(chain: Chain, rng: random.Random, lowest: int = 0) -> str:
    """A response with deliberate mistakes: 25% are guesses, 12% have no box, 20% skip an operation, and in the others
    one step in ten has a wrong result, with which the calculation continues. Other mistakes are not combined.

    Args:
        chain: Numbers of the problem.
        rng: Source of the mistakes.
        lowest: Smallest value that a mistake leads to.
    """
    kind = rng.random()
    if kind < 0.25:
        return boxed(max(lowest, chain.values[-1] + rng.randint(-9, 9)))
    if kind < 0.37:
        return worked(chain.values, chain.steps, box=False)
    if kind < 0.57:
        dropped = rng.randrange(len(chain.steps))
        return Chain(chain.start, chain.steps[:dropped] + chain.steps[dropped + 1 :]).solution
    values = [chain.start]
    for step in chain.steps:
        slip = rng.choice((-1, 1)) * rng.randint(1, 10) if rng.random() < 0.1 else 0
        values.append(max(lowest, values[-1] + step + slip))
    return worked(values, chain.steps)


def draw_examples(held_out: Collection[str], rng: random.Random, count: int, sloppy: bool) -> list[tuple[str, str]]:
    """Draws prompts that ask no held-out problem, and their responses."""
    chains = [draw_new_chain(rng, held_out) for _ in range(count)]
    return [
        (TEMPLATE.format(problem=chain.problem), sloppy_response(chain, rng) if sloppy else chain.solution)
        for chain in chains
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the arithmetic policy."""
    folder, seed = read_options("rence_lightning.embedded.make_arithmetic", "the embedded arithmetic policy", arguments)
    chains = held_out_chains()
    held_out = {chain.problem for chain in chains}
    questions = [(TEMPLATE.format(problem=chain.problem), chain.answer) for chain in chains]
    make(folder, seed, build_tokenizer(CHARACTERS), partial(draw_examples, held_out), questions, MODEL_CARD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
