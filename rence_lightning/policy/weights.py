"""The weights of a policy: whole, under the names of the plain model; the trained part of them; their digest."""

import hashlib
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
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
    """Yields weights of a model under the names that they have without adapters, which are merged into them.

    A weight with a merged adapter is a new tensor, in float32 or better. `read` returns the whole of a weight by its
    name, in its own data type if its second argument is true.
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
            factors = [read(each, True) for each in (name, *adapters[path])]
            yield f"{path}.weight", merged(layers[path], *factors)
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


def weights_digest(policy: nn.Module, frozen: bool = False) -> str:
    """A digest of all weights, the same on every rank; equal weights have it equal, however they are sharded.

    With `frozen`, it is that of the weights that are not trained: below adapters, that of the plain model. Where the
    policy is sharded, this is a collective: all ranks must call it. It digests the sum of each parameter's bits as
    integers, which does not depend on the order of summation.
    """
    digest = hashlib.blake2b(digest_size=16)
    for parameter in policy.parameters():
        if not (frozen and parameter.requires_grad):
            total = sum_of_bits(parameter.detach())
            digest.update(f"{tuple(parameter.shape)} {parameter.dtype} {total}".encode())
    return digest.hexdigest()


def sum_of_bits(parameter: Tensor) -> int:
    """The sum of a tensor's numbers read as integers: exact, and the same in any order and in any number of shards."""
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[local.element_size()]
    total = local.contiguous().view(bits).sum(dtype=torch.int64).reshape(1)
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        total = total.to(mesh.device_type)
        dist.all_reduce(total, group=mesh.get_group(mesh.ndim - 1))  # the last dimension of the mesh shards
    return int(total)
