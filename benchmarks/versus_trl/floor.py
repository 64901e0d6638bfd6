"""The arithmetic floor: the floating point operations that an iteration cannot do without."""

from collections.abc import Sequence

from benchmarks.versus_trl.timing import IterationTime
from rence_lightning.policy import Policy


def iteration_flops(policy: Policy, times: Sequence[IterationTime]) -> float:
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
    return float(8 * (layers * (prompts + responses) + head * responses))
