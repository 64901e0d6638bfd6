"""A digest of a policy's weights, which is equal for equal weights, however they are sharded."""

import hashlib
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_AS_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


@torch.no_grad()
def weights_digest(policy: nn.Module) -> str:
    """The digest, the same on every rank. Where the policy is sharded, this is a collective: all ranks must call it.

    It digests the sum of each parameter's bits as integers, which does not depend on the order of summation.
    """
    return _digest(policy.parameters())


@torch.no_grad()
def frozen_digest(policy: nn.Module) -> str:
    """The digest of the weights that are not trained. Below adapters, it is that of the plain model."""
    return _digest(parameter for parameter in policy.parameters() if not parameter.requires_grad)


def _digest(parameters: Iterable[Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for parameter in parameters:
        total = _sum_of_bits(parameter.detach())
        digest.update(f"{tuple(parameter.shape)} {parameter.dtype} {total}".encode())
    return digest.hexdigest()


def _sum_of_bits(parameter: Tensor) -> int:
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    total = local.contiguous().view(_AS_INTEGERS[local.element_size()]).sum(dtype=torch.int64).reshape(1)
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        total = total.to(mesh.device_type)
        dist.all_reduce(total, group=mesh.get_group(mesh.ndim - 1))  # the last dimension of the mesh shards
    return int(total)
