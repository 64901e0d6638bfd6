r"""Makes the start policy of the task `gym`: it knows how to calculate step by step, but mostly guesses.

    python -m benchmarks.study.make_guesser FOLDER [--seed 0]

The task is that of `tools.make_gym`, and so is the warm-up, apart from its last phase: there, most
examples are guesses without a calculation. The most likely response is then a guess, so that the policy is wrong
greedily too, and training has to change what it does, not only to sharpen it. No example asks a problem of the test
split of reasoning-gym's generator, from which both the validation and the test problems of the studies are taken.
"""

import random
from collections.abc import Sequence

from rence_lightning.prompts.arithmetic import boxed
from tools.make_arithmetic import sloppy_response
from tools.make_gym import CHARACTERS, LARGEST, LOWEST, draw_chain, question_of, questions
from tools.warm_up import TEMPLATE, make

GUESSED = 0.7
"""Share of the examples of the last phase that are guesses; the others are those of `make_gym`."""


def draw_example(rng: random.Random, sloppy: bool) -> tuple[str, str]:
    """Draws a prompt and its response: right, or, where `sloppy`, mostly a guess within ten of the answer."""
    chain = draw_chain(rng)
    if not sloppy:
        response = chain.solution
    elif rng.random() < GUESSED:
        response = boxed(chain.values[-1] + rng.randint(-LARGEST, LARGEST))
    else:
        response = sloppy_response(chain, rng, lowest=LOWEST)
    return TEMPLATE.format(problem=question_of(chain)), response


def draw_examples(rng: random.Random, count: int, sloppy: bool) -> list[tuple[str, str]]:
    """Draws prompts and their responses."""
    return [draw_example(rng, sloppy) for _ in range(count)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the policy."""
    make(CHARACTERS, draw_examples, questions, arguments)


if __name__ == "__main__":
    main()
