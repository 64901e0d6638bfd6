"""A task of a user's own, as small as a test needs: sums as a list of dictionaries, and functions as rewards."""

import random
from typing import Any

from rence_lightning import Response


def sums(count: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Chains of additions such as the embedded policy knows, as rows."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        numbers = [draw.randint(10, 99), *(draw.randint(1, 9) for _ in range(draw.randint(1, 3)))]
        rows.append({"problem": "+".join(map(str, numbers)) + "=?", "answer": str(sum(numbers)), "terms": len(numbers)})
    return rows


PROBLEMS = sums()

SMALL: dict[str, Any] = {
    "config": "arithmetic",
    "data": {"prompts_per_iteration": 4, "prompts_per_update": 2, "prompts_per_draw": 8},
    "evaluation": {"limit": 8, "repeats": 1},
    "trainer": {"cpu_threads": 1},
}
"""Settings of a run of seconds."""


def exact(response: Response) -> bool:
    """Whether the response ends with the boxed sum."""
    return response.text.strip().endswith(f"\\boxed{{{response.problem.answer}}}")


def partly(response: Response) -> float:
    """A reward for the sum, which depends on a column of the row: more for long sums."""
    return exact(response) * (0.6 + 0.1 * response.problem.fields.get("terms", 2))
