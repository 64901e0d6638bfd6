"""Tiny models with low-rank adapters whose product B A is not zero."""

import torch
from tiny_models import NoTokenizer, tiny_model, tiny_policy
from torch import Tensor

from rence_lightning.policy import LoRA, Policy
from rence_lightning.policy.adapters import add_adapters


def adapted_policy(
    architecture: str = "qwen3-tied", lora: LoRA | None = None, dtype: torch.dtype = torch.float32, head_dim: int = 16
) -> Policy:
    """A tiny policy with adapters that change what it computes."""
    model = tiny_model(architecture, head_dim=head_dim).to(dtype)
    adapters = add_adapters(model, lora or LoRA(r=3, alpha=6), f"tiny:{architecture}")
    policy = Policy(model, NoTokenizer(), adapters=adapters)  # type: ignore[arg-type]
    randomise(policy)
    return policy


@torch.no_grad()
def randomise(policy: Policy, seed: int = 5, size: float = 0.1) -> None:
    """Draws the adapters' weights, of which B is zero at first."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trained(policy).values():
        parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def trained(policy: Policy) -> dict[str, Tensor]:
    """The parameters that are trained, by the names that they have in the model."""
    return {name: parameter for name, parameter in policy.model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def merged_by_hand(policy: Policy, architecture: str, head_dim: int = 16) -> Policy:
    """A policy without adapters, each of whose adapted weights is W + alpha / r B A, from names and formula alone."""
    plain = tiny_policy(architecture, head_dim=head_dim)
    plain.model.to(policy.model.dtype)
    parameters, adapters = dict(policy.model.named_parameters()), policy.adapters
    assert adapters is not None
    for name, weight in plain.model.named_parameters():
        path = name.removesuffix(".weight")
        if f"{path}.lora_A.default.weight" in parameters:
            a, b = (parameters[f"{path}.lora_{each}.default.weight"] for each in "AB")
            change = adapters.lora.alpha / adapters.lora.r * (b @ a)
            weight += change.t() if architecture == "gpt2" else change
    return plain
