"""The output projection: log-probabilities of tokens without a tensor of all logits.

The logits of all response tokens, `(response tokens, vocabulary)`, would be the first tensor to exceed the memory. They
are computed in chunks, and where they are too many to keep, once more in the backward pass, which writes the gradient
of a chunk over its logits. `benchmarks/memory.py` compares this with library functions. Most need the gradient of each
token in the forward pass, where an objective that couples responses does not have it yet; torch's
`linear_cross_entropy(reduction="none", options=...)` gives no entropy, computes logits in the type of the states, and
always computes them twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LOGITS_PER_CHUNK, LOGITS_PER_CHUNK_ON_GPU = 2**25, 2**27
"""Largest number of logits computed at a time: 128 and 512 MiB in float32. A GPU needs larger products to be busy."""

LOGITS_KEPT = 2**26
"""Largest number of logits kept for the backward pass instead of being computed again: 256 MiB in float32."""

ENTROPY_CHUNK = 2**21
"""Largest number of terms of entropies computed at a time: 8 MiB in float32, which an allocator reuses."""


class LogitTransform(NamedTuple):
    """What a model makes of the products z of its output projection: `scale * z`, which is then soft-capped to
    `cap * tanh(scale * z / cap)` if there is a cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: "PretrainedConfig") -> "LogitTransform":
        """The transform that the configuration of a model names; `Policy.check_model` finds one that it does not."""
        config, scale = config.get_text_config(), 1.0
        for name in ("logit_scale", "lm_head_multiplier", "output_multiplier"):  # Cohere, Falcon-H1, Muse
            scale *= factor if isinstance(factor := getattr(config, name, 1.0), int | float) else 1.0
        if scaling := getattr(config, "logits_scaling", None):  # HyperCLOVA X multiplies where Granite divides
            scale *= scaling if config.model_type == "hyperclovax" else 1 / scaling
        scale /= getattr(config, "logits_mup_width_multiplier", None) or 1.0  # Inkling
        caps = (getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))  # of Gemmas
        return cls(scale, next((cap for cap in caps if cap), None))

    def at(self, temperature: float) -> "LogitTransform":
        """The transform that divides by a temperature as well."""
        return LogitTransform(self.scale / temperature, None if self.cap is None else self.cap / temperature)

    def apply_(self, products: Tensor) -> Tensor:
        """The logits of products, which it overwrites."""
        logits = products if self.scale == 1 else products.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)


class TokenScores(NamedTuple):
    """The scores of response tokens, `(response tokens,)`, in float32 or better."""

    log_probs: Tensor  # log pi(token | prefix)
    entropy: Tensor | None  # of pi(. | prefix) in nats, without a gradient; None unless requested


def token_scores(
    head: nn.Linear, states: Tensor, targets: Tensor, transform: LogitTransform, entropy: bool
) -> TokenScores:
    """Log-probabilities and, if wanted, entropies of `targets`, `(response tokens,)`, from the states that predict
    them, `(response tokens, hidden)`, in float32 (float64 where the states have it), also under autocast."""
    with torch.autocast(states.device.type, enabled=False):  # a bfloat16 logit of 20 is off by up to 0.06
        log_probs, entropies = _TokenScores.apply(states, head.weight, head.bias, targets, transform, entropy)
    return TokenScores(log_probs, entropies if entropy else None)


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        keep = transform.cap is None and any(ctx.needs_input_grad) and len(states) * len(weight) <= LOGITS_KEPT
        projection = _Projection(states, weight, bias, transform)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for chunk in projection.chunks(keep):
            logits = projection.logits(chunk)
            of_targets = logits.gather(-1, targets[chunk].unsqueeze(-1)).squeeze(-1)
            largest = logits.amax(-1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()  # in place: a second tensor of this size would cost as much time
            total = exponentials.sum(-1)
            normaliser = largest.squeeze(-1) + total.log()
            entropies = _entropies(exponentials, total) if entropy else total[:0]
            parts.append((of_targets - normaliser, entropies, normaliser))
        log_probs, entropies, normaliser = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(states, weight, bias, targets, normaliser)
        ctx.transform, ctx.kept = transform, (exponentials, total) if keep else None
        ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, normaliser = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        cap, dtype = ctx.transform.cap, normaliser.dtype
        d_states = torch.empty_like(states, dtype=dtype)
        d_weight = torch.zeros_like(weight, dtype=dtype) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=dtype) if ctx.needs_input_grad[2] else None
        projection = _Projection(states, weight, bias, ctx.transform)
        wide = projection.weight.to(dtype)
        for chunk in projection.chunks(kept is not None):
            scale, slope = (gradient[chunk] * ctx.transform.scale).unsqueeze(-1), None
            if kept is not None:
                softmax, factor = kept[0], -scale / kept[1].unsqueeze(-1)
            else:
                logits = projection.logits(chunk)
                slope = None if cap is None else 1 - (logits / cap).square_()  # of the soft-capping: 1 - tanh^2
                softmax, factor = logits.sub_(normaliser[chunk].unsqueeze(-1)).exp_(), -scale
            # d log p(y) / d logits = onehot(y) - softmax
            d_products = softmax.mul_(factor).scatter_add_(-1, targets[chunk].unsqueeze(-1), scale)
            if slope is not None:
                d_products.mul_(slope)
            with _tensor_cores() if projection.half else nullcontext():
                torch.mm(d_products, wide, out=d_states[chunk])
                if d_weight is not None:
                    torch.addmm(d_weight, d_products.t(), states[chunk].to(dtype), out=d_weight)
            if d_bias is not None:
                d_bias += d_products.sum(0)
        # Autograd casts the gradients of weight and bias to their data types.
        return d_states.to(states.dtype), d_weight, d_bias, None, None, None


def _entropies(exponentials: Tensor, total: Tensor) -> Tensor:
    """Entropies of the distributions exponentials / total, a few rows at a time."""
    rows = max(1, ENTROPY_CHUNK // exponentials.shape[-1])
    sums = [torch.special.entr(part).sum(-1) for part in exponentials.split(rows)]
    return torch.cat(sums) / total + total.log()


class _Projection:
    """The products of states and weight, and the logits that a model makes of them, a chunk of the states at a time."""

    def __init__(self, states: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> None:
        self.half = _multiplies_in_half(states, weight)
        dtype = torch.promote_types(states.dtype, torch.float32)
        self._states, self.weight = (states, weight) if self.half else (states.to(dtype), weight.to(dtype))
        self._bias = None if bias is None else bias.to(dtype)
        self._transform = transform

    def chunks(self, whole: bool) -> list[slice]:
        most = LOGITS_PER_CHUNK_ON_GPU if self._states.is_cuda else LOGITS_PER_CHUNK
        size = max(1, len(self._states) if whole else most // len(self.weight))
        return [slice(start, start + size) for start in range(0, len(self._states), size)]

    def logits(self, chunk: slice) -> Tensor:
        if not self.half:
            return self._transform.apply_(linear(self._states[chunk], self.weight, self._bias))
        products = torch.mm(self._states[chunk], self.weight.t(), out_dtype=torch.float32)
        return self._transform.apply_(products if self._bias is None else products.add_(self._bias))


def _multiplies_in_half(states: Tensor, weight: Tensor) -> bool:
    """Whether tensor cores multiply 16-bit numbers as they are; the products are exact in float32, and added so."""
    return states.is_cuda and states.dtype == weight.dtype and states.dtype in (torch.bfloat16, torch.float16)


@contextmanager
def _tensor_cores() -> Iterator[None]:
    """Products of float32 by TF32, whose 11 bits hold all of a factor that was bfloat16 or float16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
