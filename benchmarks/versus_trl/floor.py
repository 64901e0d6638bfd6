"""The arithmetic floor: the time that the matrix products of an iteration take at the rate that the machine reaches."""

import time

import torch

from benchmarks.versus_trl.timing import IterationTime
from rence_lightning.policy import Policy


def matrix_product_rate(size: int = 2048, seconds: float = 1.0) -> float:
    """Floating point operations per second of a float32 matrix product, the best of what fits into some seconds."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        one @ other
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def iteration_flops(policy: Policy, times: list[IterationTime]) -> float:
    """Floating point operations of the matrix products with the weights in a mean iteration, without attention.

    Sampling reads each prompt once and computes each response token once, 2 operations a weight; training takes 6. The
    output projection is needed for response tokens only.
    """
    head = policy.model.get_output_embeddings().weight.numel()
    embedding = policy.model.get_input_embeddings().weight.numel()
    tied = policy.model.config.tie_word_embeddings
    layers = sum(p.numel() for p in policy.model.parameters()) - embedding - (0 if tied else head)
    prompts = sum(each.prompt_tokens for each in times) / len(times)
    responses = sum(each.response_tokens for each in times) / len(times)
    return 8 * (layers * (prompts + responses) + head * responses)
