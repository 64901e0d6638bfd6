"""`python -m benchmarks.memory`: ways to get log-probabilities of tokens from hidden states: peak memory and time.

An objective that couples responses knows the gradient with respect to a token's log-probability only when those of all
responses of its group are known, after the forward pass. A way that computes gradients in the forward pass, for a loss
that is a sum or a mean, cannot serve it: for each way it is tested.
"""

import ctypes
import gc
import importlib.util
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import CLI
from torch import Tensor, nn
from torch.nn.functional import linear, linear_cross_entropy
from torch.utils.checkpoint import checkpoint

from benchmarks.machine import describe
from benchmarks.markdown import save, table
from rence_lightning.policy.output_projection import LOGITS_PER_CHUNK, LogitTransform, token_scores

REPEATS = 3
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TOLERANCE = 1e-4
"""Largest relative difference of a float32 gradient from the exact one that is still due to rounding."""

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
    return token_scores(head, states, targets, LogitTransform(), entropy=False).log_probs


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


WAYS: dict[str, LogProbs] = {
    "all logits at once": all_logits,
    "chunks, torch.utils.checkpoint": checkpointed_chunks,
    "the project's output projection": project,
    'linear_cross_entropy, "none", options=None': torch_whole,
    'linear_cross_entropy, "none", chunked, auto': torch_auto,
    'linear_cross_entropy, "none", chunked, our size': torch_chunked,
    'linear_cross_entropy, "sum", chunked, our size': torch_sum,
    'Liger fused, "none"': liger,
}


def memory(
    tokens: int = 1024,
    hidden: int = 512,
    vocabulary: int = 151936,
    dtype: str = "float32",
    device: str = "cpu",
    output: Path | None = None,
) -> None:
    """Measures peak memory and time of the output projection, forward and backward, each way in a process of its own.

    On a CPU, memory is the growth of the peak of resident memory; on a GPU, that of the memory which torch allocates.
    Weights and states are there before, and not counted; the gradient of the output projection is.

    Args:
        tokens: Number of response tokens.
        hidden: Size of the hidden states.
        vocabulary: Number of tokens in the vocabulary.
        dtype: Data type of states and weights.
        device: Device to run on, cpu or cuda.
        output: Markdown file to write as well.
    """
    rows = []
    for name, way in WAYS.items():
        if way is liger and (device == "cpu" or importlib.util.find_spec("liger_kernel") is None):
            rows.append([name, "", "", "skipped: needs a GPU and liger-kernel; no by its source"])
            continue
        # In a process of its own: freed memory is not always returned to the system.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, seconds, error = pool.apply(measure, (name, tokens, hidden, vocabulary, dtype, device))
        rows.append([name, f"{peak / 2**20:,.0f} MiB", f"{seconds:.3f}", verdict(error)])
    sizes = f"{tokens:,} tokens, hidden size {hidden:,}, vocabulary {vocabulary:,}, {dtype} on {device}"
    titles = ["way", "peak memory", "seconds", "serves coupled responses"]
    report = f"{describe()}\n\nOutput projection, forward and backward: {sizes}.\n\n{table(titles, rows)}"
    print(report)
    save(report, output)


def measure(name: str, tokens: int, hidden: int, vocabulary: int, dtype: str, device: str) -> tuple[int, float, float]:
    """Bytes of the peak, seconds, and error of the gradient of a way, with random weights on the tokens."""
    way = WAYS[name]
    torch.manual_seed(0)
    settings = {"dtype": getattr(torch, dtype), "device": torch.device(device)}
    head = nn.Linear(hidden, vocabulary, bias=False, **settings)
    states = torch.randn(tokens, hidden, requires_grad=True, **settings)
    targets = torch.randint(0, vocabulary, (tokens,), device=device)
    weights = torch.randn(tokens, device=device)

    def run(count: int) -> None:
        values = way(states[:count], head, targets[:count])
        values.backward(weights[:count].to(values.dtype) if values.shape == (count,) else None)
        states.grad = head.weight.grad = None
        if device == "cuda":
            torch.cuda.synchronize()

    run(8)  # starts threads and loads kernels
    peak = peak_of(lambda: run(tokens), device)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run(tokens)
        seconds.append(time.perf_counter() - start)
    return peak, min(seconds), gradient_error(way, torch.device(device))


def peak_of(work: Callable[[], None], device: str) -> int:
    """Largest memory during some work, beyond the memory before it, in bytes."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # otherwise the work would reuse freed memory without being seen
    RESET.write_text("5")  # sets the kernel's high-water mark to what is resident now
    before = _high_water_mark()
    work()
    return _high_water_mark() - before


def _high_water_mark() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def verdict(error: float) -> str:
    """Whether a way serves objectives that couple responses, from the relative error of its gradient."""
    if math.isinf(error):
        return "no: one scalar"
    return f"yes (error {error:.0e})" if error <= TOLERANCE else f"no: WRONG GRADIENT, error {error:.0e}"


def gradient_error(way: LogProbs, device: torch.device) -> float:
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

    exact, found = gradients(all_logits, torch.float64), gradients(way, torch.float32)
    if found is None or exact is None:
        return float("inf")
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))


if __name__ == "__main__":
    CLI(memory, as_positional=False)
