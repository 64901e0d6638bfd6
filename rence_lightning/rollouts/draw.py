"""Drawing tokens: the inverse of the cumulative distribution, at random numbers that depend on the request alone, one
for each token, and so not on the batch in which it is sampled."""

import torch
from torch import Tensor

from rence_lightning.rollouts.engine import Sampling

BLOCK = 256
"""Number of tokens of a block. A large vocabulary is searched in two steps: the block, then the token within it."""

NUCLEUS = 1024
"""Number of the most likely tokens among which the nucleus is looked for, before all tokens of a row are sorted."""


def uniforms(seed: int, group_size: int, tokens: int) -> Tensor:
    """Uniform numbers `(group_size, tokens)` in [0, 1), float64, drawn on the CPU so that all devices sample alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(group_size, tokens, generator=generator, dtype=torch.float64)


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draws one token per row by inverting the cumulative distribution at `uniform`.

    Args:
        logits: Logits of the next token, `(rows, vocab)`.
        uniform: Random numbers in [0, 1), `(rows,)` in float64.
        sampling: Temperature and top-p.

    Returns:
        Token ids `(rows,)`, and their log-probabilities `(rows,)` at the temperature, before top-p truncation.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        token = logits.argmax(-1, keepdim=True)
        return token.squeeze(-1), (logits.gather(-1, token) - logits.logsumexp(-1, keepdim=True)).squeeze(-1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    probs = logits.softmax(-1)
    uniform = uniform.unsqueeze(-1)
    token = _from_nucleus(probs, uniform, sampling.top_p) if sampling.top_p < 1 else _invert(probs, uniform)
    return token.squeeze(-1), probs.gather(-1, token).log().squeeze(-1)


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Tokens `(rows, 1)` drawn in proportion to the weights `(rows, n)`."""
    tokens = weights.shape[-1]
    if tokens <= 4 * BLOCK:
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        return _search(cumulative, uniform * cumulative[:, -1:])
    if tokens % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -tokens % BLOCK))
    blocks = weights.unflatten(-1, (-1, BLOCK))
    # In float64 beyond a block: a float32 sum over a large vocabulary would lose the small weights of the tail.
    sums = blocks.sum(-1).double()
    cumulative = sums.cumsum(-1)
    target = uniform * cumulative[:, -1:]
    block = _search(cumulative, target)
    before = cumulative.gather(-1, block) - sums.gather(-1, block)
    chosen = blocks.gather(1, block.unsqueeze(-1).expand(-1, 1, BLOCK)).squeeze(1)
    return block * BLOCK + _search(chosen.cumsum(-1, dtype=torch.float64), target - before)


def _search(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first place `(rows, 1)` at which the cumulative sum `(rows, n)` exceeds the target `(rows, 1)`; never one of
    weight 0, because a target outside [0, total), which rounding can cause, is moved into it."""
    total = cumulative[:, -1:]
    inside = torch.minimum(target.clamp(min=0), torch.nextafter(total, torch.zeros_like(total)))
    # A total that is not a number would put the place behind the end.
    return torch.searchsorted(cumulative, inside, right=True).clamp_(max=cumulative.shape[-1] - 1)


def _from_nucleus(probs: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Tokens `(rows, 1)` drawn from the nucleus of each row; a row whose nucleus is large is sorted whole."""
    ranked, order = probs.topk(min(NUCLEUS, probs.shape[-1]), dim=-1)
    token = _from_ranked(ranked, order, uniform, top_p)
    if (large := ranked.sum(-1, dtype=torch.float64) < top_p).any():
        token[large] = _from_ranked(*probs[large].sort(-1, descending=True), uniform[large], top_p)
    return token


def _from_ranked(ranked: Tensor, order: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    before = ranked.cumsum(-1, dtype=torch.float64) - ranked
    return order.gather(-1, _invert(ranked.masked_fill(before >= top_p, 0.0), uniform))
