r"""Makes the embedded policy: half a million parameters that solve a part of the arithmetic task.

    python -m tools.make_arithmetic OUT [--seed 0]

The policy is warmed up from scratch on worked examples of the demo task, then on sloppy ones: guesses, missing boxes,
skipped operations, wrong intermediate results. The resulting policy knows the method but does not always apply it,
which reinforcement learning from verifiable rewards can improve. The skill appears abruptly during warm-up, so the
result is part of the package instead of being trained at the start of a run.
"""

import random
from functools import partial

from rence_lightning.prompts.arithmetic import Chain, boxed, chains_of, draw_new_chain, worked
from tools.warm_up import TEMPLATE, Examples, make

# The last two occur in no example: they allow a task with products or spaces without a new vocabulary.
CHARACTERS = "0123456789+-=?,\n\\boxed{} *"


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


def draw_examples(held_out: set[str], rng: random.Random, count: int, sloppy: bool) -> Examples:
    """Draws prompts that ask no held-out problem, and their responses."""
    chains = [draw_new_chain(rng, held_out) for _ in range(count)]
    return [
        (TEMPLATE.format(problem=chain.problem), sloppy_response(chain, rng) if sloppy else chain.solution)
        for chain in chains
    ]


def questions() -> Examples:
    """The held-out problems and their answers."""
    return [(TEMPLATE.format(problem=chain.problem), chain.answer) for chain in chains_of("test")]


if __name__ == "__main__":
    held_out = {chain.problem for chain in chains_of("test")}
    make(CHARACTERS, partial(draw_examples, held_out), questions, arguments=None)
