"""Runs a function in two processes, joined as Fabric expects them."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Calls `function(rank, *arguments)` in each process; the function launches Fabric with two devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_joined, args=(port, function, arguments), nprocs=2)


def _joined(rank: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK="0", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    function(rank, *arguments)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this process may hold a shard."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
