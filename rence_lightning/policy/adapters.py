"""Low-rank adapters (LoRA): their settings, and their insertion by `peft` into a plain model of `transformers`."""

import importlib.util
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rence_lightning.errors import UserError, did_you_mean, install_extra

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
NAME = "default"
"""Name of the adapter within the layers of `peft`, a part of the names of its parameters."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters, which are trained in place of the weights (Hu et al., 2021, arXiv 2106.09685).

    Each adapted layer computes `W x + (alpha / r) B A x`: its weight W is frozen, A `(r, inputs)` starts at random and
    B `(outputs, r)` at zero, so that the first policy is the given one. A and B are in float32, whatever `model.dtype`.
    There is no dropout: with it, pi_theta / pi_old would compare two random networks already at the first update.

    Args:
        r: Rank of the adapters.
        alpha: Numerator of their scale, alpha / r.
        target_modules: Names of the linear layers to adapt, such as `q_proj`, or `all-linear` for all of them except
            the output projection.
        seed: Seed of the initial values of A, which are the same on every rank.
    """

    r: int = 32
    alpha: int = 32
    target_modules: str | list[str] = ALL_LINEAR
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("r", self.r), ("alpha", self.alpha)):
            if value < 1:
                raise UserError(f"model.lora.{name} is {value}; it must be >= 1 (the adapters' scale is alpha / r)")
        if not self.target_modules:
            raise UserError(f"model.lora.target_modules is empty; name linear layers, or set it to {ALL_LINEAR}")


@dataclass(frozen=True)
class Adapters:
    """The adapters of a policy, and the model that they belong to."""

    lora: LoRA
    base: str  # name of the model (see `load_policy`); the path of a folder is absolute
    layers: list[str]  # names of the layers that are adapted, without their places in the model, sorted

    def config(self) -> "LoraConfig":
        """The settings as `peft` writes and reads them."""
        from peft import LoraConfig

        lora = self.lora
        return LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=self.layers, task_type="CAUSAL_LM")


def add_adapters(model: "PreTrainedModel", lora: LoRA, base: str) -> Adapters:
    """Adds adapters to a model in place, and freezes everything else. Raises `UserError` if `peft` is missing or a name
    of `lora.target_modules` is not that of a linear layer."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"model.lora needs peft; {install_extra('lora')}")
    from peft import inject_adapter_in_model

    adapters = Adapters(lora, base, _layers(model, lora.target_modules))
    empty = next(model.parameters()).is_meta  # where the model has shapes alone, so have the adapters
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # The layers of GPT-2 hold the transpose of their weights: peft notices, and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        torch.manual_seed(lora.seed)
        inject_adapter_in_model(adapters.config(), model, NAME, low_cpu_mem_usage=empty)
    del model.peft_config  # `transformers` would take the model for one that has only its adapters to save
    for parameter in model.parameters():
        if parameter.requires_grad:  # an adapter, in the data type of the weight so far
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return adapters


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The adapted layers of a model, which are classes of `peft`, and the names under which they stand in it."""
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and NAME in getattr(module, "lora_A", ()):
            yield name, module


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """A block in which the model computes as if it had no adapters: it is the model that they were added to."""
    layers = [layer for _, layer in adapted_layers(model)]
    for layer in layers:
        layer._disable_adapters = True  # `enable_adapters` would also freeze the adapters, which the optimizer trains
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged(layer: Any, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The weight W + scale B A of an adapted layer of `peft`, as a new tensor, in float32 or better, from the whole
    of W, A `(r, inputs)` and B `(outputs, r)`."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):  # which would multiply in bfloat16
        change = (b.to(dtype) @ a.to(dtype)) * layer.scaling[NAME]
        return weight.to(dtype) + (change.t() if layer.fan_in_fan_out else change)


def _layers(model: "PreTrainedModel", targets: str | list[str]) -> list[str]:
    """The last names of the layers to adapt, sorted."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)  # themselves: a router that is a linear layer may return more than a tensor
    # The kernels of state space layers read these weights without a call of the layer, and so without its adapter.
    mixers = [name for name, module in model.named_modules() if hasattr(module, "A_log") and hasattr(module, "D")]
    uncalled = {f"{name}.{layer}" for name in mixers for layer in ("dt_proj", "out_proj")}
    linear = [
        name
        for name, module in model.named_modules()
        if type(module) in kinds and module is not head and name not in uncalled
    ]
    # A place in a list is no name: `peft` would take the `0` of a list of linear layers for the model's first layer.
    found = {re.sub(r".*\.(?!\d+(\.\d+)*$)", "", name) for name in linear}
    # In some mixtures, `peft` takes the names of dense layers for those of experts, which are one tensor, in training
    # and when it loads adapters. It asks for both halves of the tensor.
    config = LoraConfig(target_modules=[*found, "gate_proj", "up_proj", "w1", "w3"])
    convert_peft_config_for_transformers(config, model, None)
    known = sorted(found.intersection(config.target_modules or ()))
    if not known:
        raise UserError(f"model.lora: {type(model).__name__} has no linear layers to adapt; train it without adapters")
    if targets == ALL_LINEAR:
        return known
    wanted = [targets] if isinstance(targets, str) else targets
    for name in wanted:
        if any(module is head and path.rpartition(".")[2] == name for path, module in model.named_modules()):
            raise UserError(
                f"model.lora.target_modules: {name} is the output projection, which cannot be adapted, because "
                "log-probabilities are computed from its weight alone; remove it"
            )
        if name not in known:
            raise UserError(
                f"model.lora.target_modules: the policy has no linear layer {name} to adapt"
                f"{did_you_mean(name, known)}; choose from {', '.join(known)}, or set it to {ALL_LINEAR}"
            )
    return sorted(set(wanted))
