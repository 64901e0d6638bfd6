r"""Makes the embedded policy of the reasoning-gym example: half a million parameters that half know one of its tasks.

    python -m tools.make_gym OUT [--seed 0]

The task is `basic_arithmetic` with two to four numbers up to ten that are added and subtracted: `Calculate 5 - 9 + 8.`
has the answer 4. As in `make_arithmetic`, the policy is warmed up from scratch on worked examples, then on sloppy ones.
"""

import random

from rence_lightning.prompts.arithmetic import Chain
from rence_lightning.prompts.gym import GymProblems, GymTask
from rence_lightning.prompts.gym_generation import split_of
from tools.make_arithmetic import sloppy_response
from tools.warm_up import TEMPLATE, Examples, make

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


def draw_examples(rng: random.Random, count: int, sloppy: bool) -> Examples:
    """Draws prompts and their responses."""
    return [draw_example(rng, sloppy) for _ in range(count)]


def questions() -> Examples:
    """Problems of the test split and their answers."""
    held_out = GymProblems({"basic_arithmetic": TASK}, split="test", size=500, instruction="").load()
    return [(TEMPLATE.format(problem=problem.problem), problem.answer) for problem in held_out]


if __name__ == "__main__":
    make(CHARACTERS, draw_examples, questions, arguments=None)
