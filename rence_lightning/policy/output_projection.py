"""The output projection: log-probabilities of tokens without a tensor of all logits.

The logits of all response tokens, `(response tokens, vocabulary)`, would be the first tensor to exceed the memory. They
are computed in chunks, and where they are too many to keep, once more in the backward pass, which writes the gradient
of a chunk over its logits. `benchmarks/memory.py` compares this with library functions. Most need the gradient of each
token in the forward pass, where an objective that couples responses does not have it yet; torch's
`linear_cross_entropy(reduction="none", options=...)` gives no entropy, computes logits in the type of the states, and
always computes them twice.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

LOGITS_PER_CHUNK = 2**25
"""Largest number of logits computed at a time: 128 MiB in float32."""

LOGITS_KEPT = 2**26
"""Largest number of logits kept for the backward pass instead of being computed again: 256 MiB in float32."""

ENTROPY_CHUNK = 2**21
"""Largest number of terms of entropies computed at a time: 8 MiB in float32, which an allocator reuses."""


class TokenScores(NamedTuple):
    """The scores of response tokens, `(response tokens,)`, in float32 or better."""

    log_probs: Tensor  # log pi(token | prefix)
    entropy: Tensor | None  # of pi(. | prefix) in nats, without a gradient; None unless requested


def token_scores(head: nn.Linear, states: Tensor, targets: Tensor, temperature: float, entropy: bool) -> TokenScores:
    """Log-probabilities and, if wanted, entropies of `targets`, `(response tokens,)`, from the states that predict
    them, `(response tokens, hidden)`, in float32 (float64 where the states have it), also under autocast."""
    with torch.autocast(states.device.type, enabled=False):  # a bfloat16 logit of 20 is off by up to 0.06
        log_probs, entropies = _TokenScores.apply(states, head.weight, head.bias, targets, temperature, entropy)
    return TokenScores(log_probs, entropies if entropy else None)


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        keep = any(ctx.needs_input_grad) and len(states) * len(weight) <= LOGITS_KEPT
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for chunk in _chunks(states, weight, keep):
            logits = _logits(states[chunk], weight, bias, temperature)
            of_targets = logits.gather(-1, targets[chunk].unsqueeze(-1)).squeeze(-1)
            largest = logits.amax(-1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()  # in place: a second tensor of this size would cost as much time
            total = exponentials.sum(-1)
            normaliser = largest.squeeze(-1) + total.log()
            entropies = _entropies(exponentials, total) if entropy else total[:0]
            parts.append((of_targets - normaliser, entropies, normaliser))
        log_probs, entropies, normaliser = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(states, weight, bias, targets, normaliser)
        ctx.temperature, ctx.kept = temperature, (exponentials, total) if keep else None
        ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, normaliser = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        dtype = normaliser.dtype
        d_states = torch.empty_like(states, dtype=dtype)
        d_weight = torch.zeros_like(weight, dtype=dtype) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=dtype) if ctx.needs_input_grad[2] else None
        for chunk in _chunks(states, weight, kept is not None):
            scale = (gradient[chunk] / ctx.temperature).unsqueeze(-1)
            if kept is not None:
                softmax, factor = kept[0], -scale / kept[1].unsqueeze(-1)
            else:
                logits = _logits(states[chunk], weight, bias, ctx.temperature)
                softmax, factor = logits.sub_(normaliser[chunk].unsqueeze(-1)).exp_(), -scale
            # d log p(y) / d logits = onehot(y) - softmax
            d_logits = softmax.mul_(factor).scatter_add_(-1, targets[chunk].unsqueeze(-1), scale)
            torch.mm(d_logits, weight.to(dtype), out=d_states[chunk])
            if d_weight is not None:
                torch.addmm(d_weight, d_logits.t(), states[chunk].to(dtype), out=d_weight)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        # Autograd casts the gradients of weight and bias to their data types.
        return d_states.to(states.dtype), d_weight, d_bias, None, None, None


def _entropies(exponentials: Tensor, total: Tensor) -> Tensor:
    """Entropies of the distributions exponentials / total, a few rows at a time."""
    rows = max(1, ENTROPY_CHUNK // exponentials.shape[-1])
    sums = [torch.special.entr(part).sum(-1) for part in exponentials.split(rows)]
    return torch.cat(sums) / total + total.log()


def _chunks(states: Tensor, weight: Tensor, whole: bool) -> list[slice]:
    size = max(1, len(states) if whole else LOGITS_PER_CHUNK // len(weight))
    return [slice(start, start + size) for start in range(0, len(states), size)]


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    dtype = torch.promote_types(states.dtype, torch.float32)
    logits = linear(states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    return logits if temperature == 1 else logits.div_(temperature)
