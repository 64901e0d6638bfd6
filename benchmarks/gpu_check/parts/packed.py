"""The part `packed`: packed rows, with FlexAttention on a GPU, against padded rows of the same responses."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from benchmarks.gpu_check.findings import Findings
from benchmarks.gpu_check.settings import Settings
from benchmarks.gpu_check.shapes import shape_config
from rence_lightning.policy import PackedRow, Policy, Segment
from rence_lightning.policy.load import activation_checkpointing

TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (0.02, 0.2), "float16": (5e-3, 0.05)}
"""Largest mean difference of a log-probability, and relative tolerance of the gradient, by data type of autocast."""

LAYERS = 2
"""Number of layers that are computed: those of a real model, which are all alike."""


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass.

    Attributes:
        log_probs: Log-probabilities of the response tokens, in float64 on the CPU.
        gradient: Gradient of their weighted sum by all parameters, in float64 on the CPU.
        seconds: Time of the pass.
    """

    log_probs: Tensor
    gradient: Tensor
    seconds: float


def check(settings: Settings, findings: Findings) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    policy = make_policy(settings)
    sizes = (60, 8, 100) if settings.cpu else (400, 4, 600)
    for checkpointing in (False, True):
        if checkpointing:
            activation_checkpointing(policy.model)
        for name in TOLERANCES:
            label = f"{name}, recomputed activations" if checkpointing else name
            compare(policy, row(policy, *sizes), getattr(torch, name), label, findings)


def make_policy(settings: Settings) -> Policy:
    """A few layers of the shape, with random weights of a size at which attention matters, on the device."""
    config = shape_config(settings.shape)
    config.num_hidden_layers, config.vocab_size = LAYERS, 1000
    config.layer_types = ["full_attention"] * LAYERS
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return Policy(model.to(settings.device), None)  # type: ignore[arg-type]  # no text is read


def row(policy: Policy, prompt: int, responses: int, longest: int) -> PackedRow:
    """Two groups of random tokens, with responses of different lengths up to the longest."""
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return list(torch.randint(3, 1000, (length,), generator=generator).tolist())

    segments = [
        Segment(tokens(prompt - 7 * i), [tokens(longest - j * longest // (responses + 1)) for j in range(responses)])
        for i in range(2)
    ]
    return PackedRow(segments, policy.compute_device)


def compare(policy: Policy, packed: PackedRow, dtype: torch.dtype, label: str, findings: Findings) -> None:
    """Compares the two ways in one data type of autocast."""
    log_prob, gradient = TOLERANCES[str(dtype).removeprefix("torch.")]
    try:
        ours, reference = (run_pass(policy, packed, dtype, packed=each) for each in (True, False))
    except Exception as error:  # a kernel that does not compile, or a GPU that is out of memory
        findings.expect(False, f"{label}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return
    difference = (ours.gradient - reference.gradient).norm() / reference.gradient.norm()
    findings.at_most(
        f"{label}, log-probability, mean difference",
        float((ours.log_probs - reference.log_probs).abs().mean()),
        log_prob,
    )
    findings.at_most(f"{label}, gradient, relative difference", float(difference), gradient)
    findings.note(f"{label}, seconds of the packed pass, with compilation", ours.seconds)


def run_pass(policy: Policy, row: PackedRow, dtype: torch.dtype, packed: bool) -> Pass:
    """A pass over the row as it is, or over padded rows of its responses."""
    policy.train()
    policy.zero_grad()
    start = time.perf_counter()
    with torch.autocast(row.input_ids.device.type, dtype, enabled=dtype != torch.float32):
        log_probs = policy(row, packed=packed).log_probs
    weights = torch.linspace(-1, 1, len(log_probs), device=log_probs.device)
    (weights * log_probs).sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    gradient = torch.cat([each.double().cpu().flatten() for each in gradients])
    return Pass(log_probs.detach().double().cpu(), gradient, time.perf_counter() - start)
