"""Stochastic rounding of the weights that compute, above float32 masters that the optimizer changes."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from rence_lightning.errors import UserError
from rence_lightning.policy import Policy
from rence_lightning.training.strategy import local_part

BLOCK = 2**20
"""Number of weights that are rounded at a time."""


class StochasticRounding:
    """Keeps a copy of the masters, rounded to the computation's type, in the parameters of a policy.

    Rounded to the nearest, a weight of 0.02 in bfloat16 does not follow an update of 1e-6, because the next number is
    1.2e-4 away. Here a weight takes one of its two neighbours, the upper one with a probability equal to its distance
    from the lower one, so that its mean is the master. The rounded weights lie on the grid of the computation's type,
    so that the casts of autocast, of the sharding strategy and of the engine are exact, and all of them compute with
    the same copy. Between two updates the parameters hold that copy; for an optimizer's step, a checkpoint or an
    export they hold the masters.

    A weight is rounded up if its fraction exceeds a random threshold, which is drawn for each iteration and is the same
    for all of its updates: pi_theta and pi_old then differ where a weight has crossed its threshold, and not by two
    independent roundings. The threshold is a hash of the seed, the iteration, the parameter's name and the weight's
    index in the whole parameter. It takes no memory, and is the same however the policy is sharded.

    The masters take 4 more bytes for each parameter, divided by the number of processes that shard it.

    Args:
        policy: Policy, sharded or not, whose parameters are the masters so far; they are rounded.
        dtype: Data type of the computation, `torch.bfloat16` or `torch.float16`.
        seed: Seed of the thresholds.
        iteration: Number of the iteration whose thresholds are used, 0 before training.

    Raises:
        UserError: The policy has adapters, is not in float32, or has weights beyond the range of float16.
    """

    def __init__(self, policy: Policy, dtype: torch.dtype, seed: int, iteration: int) -> None:
        self._dtype = dtype
        self._policy = policy
        self._seed = seed
        self._iteration = iteration
        self._reshard()
        self._parameters = dict(policy.named_parameters())
        self._check()
        self._masters = {name: local_part(each)[0].clone() for name, each in self._parameters.items()}
        self._round()

    def draw(self, iteration: int) -> None:
        """Rounds with the thresholds of an iteration."""
        if iteration != self._iteration:
            self._iteration = iteration
            self._round()

    @contextmanager
    def masters(self) -> Iterator[None]:
        """Work on the masters, which may change them; they are rounded again afterwards, with the same thresholds."""
        self._reshard()
        for name, parameter in self._parameters.items():
            local_part(parameter)[0].copy_(self._masters[name])
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                self._masters[name].copy_(local_part(parameter)[0])
            self._round()

    @torch.no_grad()
    def _round(self) -> None:
        self._reshard()
        for name, parameter in self._parameters.items():
            local, start = local_part(parameter)
            round_stochastically(
                self._masters[name], self._dtype, f"{self._seed}/{self._iteration}/{name}", start, local
            )

    def _reshard(self) -> None:
        # A forward pass without a backward pass may have left whole parameters, which would not follow their shards.
        for module in self._policy.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _check(self) -> None:
        if self._policy.adapters is not None:
            raise UserError(
                "trainer: rounding is stochastic, but adapters are trained: they are small and keep their own relative "
                "precision, and the engine rounds weights into which they are merged; set rounding to nearest"
            )
        for name, parameter in self._parameters.items():
            if parameter.dtype != torch.float32:
                raise UserError(
                    f"trainer: rounding is stochastic, but the policy's parameters are in {parameter.dtype}, which "
                    "leaves nothing to round; set model.dtype to float32"
                )
            local, largest = local_part(parameter)[0], torch.finfo(self._dtype).max
            if local.numel() and float(local.abs().max()) > largest:
                raise UserError(
                    f"trainer: {name} has weights beyond {largest:g}, the largest number of {self._dtype}; set "
                    "precision to bf16-mixed"
                )


def check_engine(engine: object, dtype: torch.dtype) -> None:
    """Refuses an engine that would round the weights once more, to another 16-bit type than the trainer's.

    Raises:
        UserError: The engine computes in such a type.
    """
    given = [getattr(engine, name, None) for name in ("dtype", "copy_dtype")]
    other = next((each for each in given if each not in (None, "float32", str(dtype).removeprefix("torch."))), None)
    if other is not None:
        raise UserError(
            f"trainer: rounding is stochastic in {dtype}, but the engine's weights are in {other}, so that it would "
            f"sample from another policy; set its data type to {str(dtype).removeprefix('torch.')} or float32"
        )


def round_stochastically(weights: Tensor, dtype: torch.dtype, key: str, start: int, out: Tensor) -> None:
    """Rounds float32 numbers to one of their two neighbours in a 16-bit type, without bias.

    Args:
        weights: Numbers to round, `(n,)`, in float32.
        dtype: `torch.bfloat16` or `torch.float16`; a number must not be beyond its range.
        key: Key of the random thresholds.
        start: Index of the first number among those that have the key.
        out: Tensor for the rounded numbers, `(n,)`, in float32.
    """
    neighbour = _NEIGHBOURS[dtype]
    for block in range(start // BLOCK, -(-(start + len(weights)) // BLOCK)):
        first, last = max(start, block * BLOCK), min(start + len(weights), (block + 1) * BLOCK)
        random = _random_bits(f"{key}/{block}", first - block * BLOCK, last - block * BLOCK, weights.device)
        part = slice(first - start, last - start)
        out[part] = neighbour(weights[part], random)


def _bfloat16_neighbour(weights: Tensor, random: Tensor) -> Tensor:
    # bfloat16 is float32 without its last 16 bits: adding random bits to them carries with the right probability.
    return ((weights.view(torch.int32) + (random & 0xFFFF)) & ~0xFFFF).view(torch.float32)


def _float16_neighbour(weights: Tensor, random: Tensor) -> Tensor:
    # The spacing of float16 is 2^-10 of a number's power of two, and 2^-24 below 2^-14 (biased exponent 113).
    exponent = ((weights.view(torch.int32) >> 23) & 0xFF).clamp_(min=113)
    spacing = ((exponent - 10) << 23).view(torch.float32)
    steps = weights.abs() / spacing  # exact, as is all that follows
    below = steps.floor()
    threshold = ((random >> 8) & 0xFFFFFF) * 2.0**-24
    return torch.copysign((below + (steps - below > threshold)) * spacing, weights)


_NEIGHBOURS: dict[torch.dtype, Callable[[Tensor, Tensor], Tensor]] = {
    torch.bfloat16: _bfloat16_neighbour,
    torch.float16: _float16_neighbour,
}


def _random_bits(key: str, first: int, last: int, device: torch.device) -> Tensor:
    """32 random bits for each of the numbers from `first` to `last`, which depend on the key and the number alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    bits = torch.arange(first, last, dtype=torch.int32, device=device)
    for half in (digest[:4], digest[4:]):
        _mix(bits.bitwise_xor_(int.from_bytes(half, "little", signed=True)))
    return bits


def _mix(bits: Tensor) -> None:
    """A bijection of 32 bits after which each bit depends on all (C. Wellons' `lowbias32`); products wrap around."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, 1)):
        bits.bitwise_xor_((bits >> shift) & ((1 << (32 - shift)) - 1))  # the mask: the shift repeats the sign
        bits.mul_(factor)
