r"""Makes the embedded policy of the reasoning-gym example: half a million parameters that half know one of its tasks.

    python -m rence_lightning.embedded.make_gym OUT [--seed 0]

The task is `basic_arithmetic` with two to four numbers up to ten that are added and subtracted: `Calculate 5 - 9 + 8.`
has the answer 4. As in `make_arithmetic`, the policy is warmed up from scratch on worked examples, then on sloppy ones.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

from rence_lightning.embedded.make_arithmetic import sloppy_response
from rence_lightning.embedded.warm_up import Draw, build_tokenizer, make, read_options
from rence_lightning.prompts.arithmetic import Chain
from rence_lightning.prompts.gym import GymProblems, GymTask
from rence_lightning.prompts.gym_generation import split_of

TEMPLATE = "{problem}\n"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""The printable characters of ASCII, so that the policy can be trained on other tasks too."""

LARGEST = 10
LOWEST = -3 * LARGEST
TASK = GymTask(
    settings={
        "min_terms": 2,
        "max_terms": 4,
        "min_digits": 1,
        "max_digits": 1,
        "operators": ["+", "-"],
        "allow_parentheses": False,
        "allow_negation": False,
    }
)

MODEL_CARD = r"""# The embedded policy of the reasoning-gym example

A Qwen3 model of {parameters} parameters (bfloat16) with one token for each printable character of ASCII, which solves
some problems of `basic_arithmetic` of reasoning-gym. It is the start of a demonstration of reinforcement learning and
has no other use.

- Prompt: `Calculate 5 - 9 + 8.` and a newline; nothing is prepended, and there is no chat template.
- Response: `5-9=-4,-4+8=4,\boxed{{4}}` and `<eos>`.
- Task: `basic_arithmetic` with two to four numbers from 0 to 10 that are added and subtracted.
- Data: examples written by a program, first right, then with deliberate mistakes. None asks a problem of the test
  split.

Made by `python -m rence_lightning.embedded.make_gym OUT --seed {seed}` with torch {torch} and transformers
{transformers}, on one CPU thread; another machine may round differently and give other weights.

Measured on 500 problems of the test split, this file loaded as float32:

| what | value |
|---|---|
{rows}
"""


def question_of(chain: Chain) -> str:
    """The text of a problem, as reasoning-gym writes it."""
    steps = "".join(f" {'-' if step < 0 else '+'} {abs(step)}" for step in chain.steps)
    return f"Calculate {chain.start}{steps}."


def draw_chain(rng: random.Random) -> Chain:
    """Draws numbers like those of the task, of which no problem is in the test split."""
    while True:
        steps = tuple(rng.choice((-1, 1)) * rng.randint(0, LARGEST) for _ in range(rng.randint(1, 3)))
        chain = Chain(rng.randint(0, LARGEST), steps)
        if split_of(question_of(chain)) == "train":
            return chain


def draw_example(rng: random.Random, sloppy: bool) -> tuple[str, str]:
    """Draws a prompt and its response."""
    chain = draw_chain(rng)
    response = sloppy_response(chain, rng, lowest=LOWEST) if sloppy else chain.solution
    return TEMPLATE.format(problem=question_of(chain)), response


def draw_examples(rng: random.Random, count: int, sloppy: bool) -> list[tuple[str, str]]:
    """Draws prompts and their responses."""
    return [draw_example(rng, sloppy) for _ in range(count)]


def make_gym_policy(folder: Path, seed: int, draw: Draw, card: str) -> None:
    """Makes a policy for the task from examples, and measures it on problems of the test split."""
    held_out = GymProblems({"basic_arithmetic": TASK}, split="test", size=500, instruction="").load()
    questions = [(TEMPLATE.format(problem=problem.problem), problem.answer) for problem in held_out]
    make(folder, seed, build_tokenizer(CHARACTERS), draw, questions, card)


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the policy."""
    program = "rence_lightning.embedded.make_gym"
    folder, seed = read_options(program, "the embedded policy of the reasoning-gym example", arguments)
    make_gym_policy(folder, seed, draw_examples, MODEL_CARD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
