"""The arithmetic floor: the floating point operations that an iteration cannot do without."""

from collections.abc import Sequence

from benchmarks.versus_trl.timing import IterationTime
from rence_lightning.policy import Policy


def iteration_flops(policy: Policy, times: Sequence[IterationTime]) -> float:
    """Floating point operations of the matrix products with the weights in a mean iteration, without attention.

    Sampling reads each prompt once and computes each response token once, 2 operations a weight; training takes 6. The
    output projection is needed for response tokens only.
    """
    # Parameters, because the type of an embedding does not say that its weight is a tensor; a tied one counts once.
    parts = [policy.model.get_input_embeddings(), policy.model.get_output_embeddings()]
    of_parts = [sum(weight.numel() for weight in part.parameters()) for part in parts]
    outside = sum(of_parts[: 1 if policy.model.config.tie_word_embeddings else 2])
    layers, head = sum(weight.numel() for weight in policy.model.parameters()) - outside, of_parts[1]
    prompts = sum(each.prompt_tokens for each in times) / len(times)
    responses = sum(each.response_tokens for each in times) / len(times)
    return float(8 * (layers * (prompts + responses) + head * responses))
