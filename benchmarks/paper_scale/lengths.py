"""The lengths of the paper's run, as far as they are known: at most 6,656 tokens, and most responses far shorter."""

import math
import random
from dataclasses import dataclass

GROUP_SIZE, PROMPTS_PER_UPDATE, PROMPTS_PER_ITERATION = 8, 32, 512
LIMIT, MEDIAN, SPREAD = 6656, 2200, 0.67
"""Tokens: log-normal lengths with this median, of which 5% reach the limit."""
KEPT = 0.35
"""Share of groups that the filter keeps; an assumption, because the paper does not give it."""


@dataclass(frozen=True)
class Sampled:
    """A group as the scheduler sees it: number of tokens of the prompt and of each response, and whether it is kept."""

    prompt: int
    responses: tuple[int, ...]
    kept: bool


def sampled_group(draw: random.Random) -> Sampled:
    """A group of random lengths."""
    responses = (math.ceil(draw.lognormvariate(math.log(MEDIAN), SPREAD)) for _ in range(GROUP_SIZE))
    lengths = tuple(min(LIMIT, max(1, length)) for length in responses)
    return Sampled(draw.randint(80, 220), lengths, draw.random() < KEPT)
