"""Ways to get the log-probabilities of tokens from hidden states, with a gradient.

What an objective that couples responses needs of them: the gradient of the loss with respect to a token's
log-probability is known only when the log-probabilities of *all* responses of its group are known, after the forward
pass. A way that computes gradients in the forward pass, for a loss that is a sum or a mean, cannot serve it.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, linear_cross_entropy
from torch.utils.checkpoint import checkpoint

from rence_lightning.policy.output_projection import LOGITS_PER_CHUNK, token_scores

LogProbs = Callable[[Tensor, nn.Linear, Tensor], Tensor]
"""From states `(tokens, hidden)`, the output projection and token ids `(tokens,)` to log-probabilities `(tokens,)`."""


def all_logits(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """The logits of all tokens at once."""
    logits = linear(states, head.weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def checkpointed_chunks(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Chunks of tokens, each of which autograd computes once more in the backward pass."""
    size = max(1, LOGITS_PER_CHUNK // len(head.weight))
    parts = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(all_logits, chunk, head, ids, use_reentrant=False) for chunk, ids in parts])


def project(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """The project's own output projection."""
    return token_scores(head, states, targets, temperature=1.0, entropy=False).log_probs


def torch_whole(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return -linear_cross_entropy(states, head.weight, targets, reduction="none")


def torch_auto(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return -linear_cross_entropy(states, head.weight, targets, reduction="none", options=nn.LinearCrossEntropyOptions())


def torch_chunked(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """With chunks of the project's size: the default depends on the hidden size, and suits large ones."""
    size = max(1, LOGITS_PER_CHUNK // len(head.weight))
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=None)
    return -linear_cross_entropy(states, head.weight, targets, reduction="none", options=options)


def torch_sum(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """A scalar, whose gradients are computed in the forward pass; it cannot be weighted by token."""
    size = max(1, LOGITS_PER_CHUNK // len(head.weight))
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=None)
    return -linear_cross_entropy(states, head.weight, targets, reduction="sum", options=options)


def liger(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Its gradients are those of unweighted tokens, computed in the forward pass. The backward pass multiplies all of
    them by one element of the upstream gradient (liger-kernel 0.8.5, ops/fused_linear_cross_entropy.py)."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return -LigerFusedLinearCrossEntropyLoss(reduction="none")(head.weight, states, targets)


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        title: Name in tables.
        log_probs: Function that computes the log-probabilities.
        skip: Reason for which it cannot run here, or an empty string.
    """

    title: str
    log_probs: LogProbs
    skip: str = ""


def ways(device: torch.device) -> dict[str, Way]:
    """All ways, by key."""
    without_liger = ""
    if device.type != "cuda":
        without_liger = "skipped, needs a GPU; no by its source: one weight scales all tokens"
    elif importlib.util.find_spec("liger_kernel") is None:
        without_liger = "skipped: not installed (pip install liger-kernel)"
    return {
        "all_logits": Way("all logits at once", all_logits),
        "checkpointed": Way("chunks, torch.utils.checkpoint", checkpointed_chunks),
        "project": Way("the project's output projection", project),
        "torch_whole": Way('linear_cross_entropy, "none", options=None', torch_whole),
        "torch_auto": Way('linear_cross_entropy, "none", chunked, auto', torch_auto),
        "torch_chunked": Way('linear_cross_entropy, "none", chunked, our size', torch_chunked),
        "torch_sum": Way('linear_cross_entropy, "sum", chunked, our size', torch_sum),
        "liger": Way('Liger fused, "none"', liger, without_liger),
    }


def gradient_error(way: Way, device: torch.device) -> float:
    """Largest difference from the exact gradient, relative to its largest element, with a random weight on each token.

    An objective that couples responses weights the tokens in this way. An infinite error stands for a way that has no
    log-probability of each token.
    """
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(rows, 32, generator=generator, dtype=torch.float64) for rows in (256, 1000))
    targets = torch.randint(0, len(weight), (len(states),), generator=generator).to(device)
    upstream = torch.randn(len(states), generator=generator).to(device)

    def gradients(log_probs: LogProbs, dtype: torch.dtype) -> list[Tensor] | None:
        head = nn.Linear(32, len(weight), bias=False, device=device, dtype=dtype)
        head.weight.data.copy_(weight)
        inputs = states.to(device, dtype).requires_grad_()
        values = log_probs(inputs, head, targets)
        if values.shape != targets.shape:
            return None
        return list(torch.autograd.grad(values, [inputs, head.weight], upstream.to(values.dtype)))

    exact, found = gradients(all_logits, torch.float64), gradients(way.log_probs, torch.float32)
    if found is None or exact is None:
        return float("inf")
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))
