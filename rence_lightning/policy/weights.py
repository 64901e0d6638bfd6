"""The weights of a policy: whole, under the names of the plain model, and the part of them that is trained."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from rence_lightning.policy.adapters import NAME, adapted_layers, merged

BASE = ".base_layer."
"""What `peft` adds to the names of the weights of a layer that it adapts."""


def gathered(parameter: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The whole of a parameter on this rank. Where it is sharded, this is a collective: every rank must call it.

    The shard is moved and cast before it is gathered, so that an offloaded shard is sent from GPU to GPU, and half as
    many bytes are sent for a bfloat16 copy.
    """
    parameter = parameter.detach().to(device=device, dtype=dtype)
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def plain_weights(
    model: nn.Module, names: Iterable[str], read: Callable[[str, bool], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Weights of a model under the names that they have without adapters, which are merged into them, one at a time.

    Args:
        model: Model, whose adapted layers have the scales of the adapters.
        names: Names of its weights.
        read: Function that returns the whole of a weight by its name, in its own data type if its second argument is
            true.

    Yields:
        A name and a weight; a weight with a merged adapter is a new tensor, in float32 or better.
    """
    layers = dict(adapted_layers(model))
    adapters = {path: [f"{path}.lora_{each}.{NAME}.weight" for each in "AB"] for path in layers}
    skipped = {name for pair in adapters.values() for name in pair}
    for name in names:
        path, _, of_layer = name.partition(BASE)
        if name in skipped:
            continue
        if not of_layer:
            yield name, read(name, False)
        elif of_layer == "weight":
            yield (
                f"{path}.weight",
                merged(layers[path], read(name, True), *(read(each, True) for each in adapters[path])),
            )
        else:
            yield f"{path}.{of_layer}", read(name, False)


def only_trained(policy: nn.Module) -> nn.Module:
    """A module that holds the parameters that are trained, and no others, under their names.

    They are the parameters themselves, not copies: what is loaded into the new module is loaded into the policy.
    """
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a forward pass without a backward pass may have left whole parameters in its place
    part = nn.Module()
    for name, parameter in policy.named_parameters():
        if not parameter.requires_grad:
            continue
        *path, last = name.split(".")
        module = part
        for step in path:
            if step not in module._modules:
                module.add_module(step, nn.Module())
            module = module.get_submodule(step)
        module.register_parameter(last, parameter)
    return part
