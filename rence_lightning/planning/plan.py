"""A run and whether it fits into the memory of its devices."""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, cast

import torch

from rence_lightning.errors import UserError
from rence_lightning.planning.sampling_memory import EngineSetup, SamplingMemory, engine_setup, sampling_memory
from rence_lightning.planning.setup import FUSED_ADAMW, TrainingSetup, read_shape
from rence_lightning.planning.training_memory import TrainingMemory, training_memory
from rence_lightning.policy import LoRA
from rence_lightning.training.strategy import FullyShardStrategy

USABLE = 0.95
"""Share of a device's memory that a run may take. The rest is for what cannot be computed: the CUDA context, workspaces
of cuBLAS and NCCL, and fragments of torch's caching allocator."""

GUESSED_PROMPT = 1024
"""Length of the longest prompt where the configuration does not limit it."""


@dataclass(frozen=True)
class Plan:
    """A run on devices of a given memory.

    Attributes:
        training: Settings of training.
        engine: Settings of the engine.
        device_bytes: Memory of each device, or of the machine on a CPU.
    """

    training: TrainingSetup
    engine: EngineSetup
    device_bytes: float

    @cached_property
    def train(self) -> TrainingMemory:
        """Memory while the policy trains."""
        return training_memory(self.training)

    @cached_property
    def sample(self) -> SamplingMemory:
        """Memory while the engine samples."""
        return sampling_memory(self.training, self.engine, self.train, self.device_bytes)

    @property
    def usable(self) -> float:
        """Memory that the run may take of a device."""
        return USABLE * self.device_bytes

    @property
    def training_bytes(self) -> int:
        """Peak of a device while the policy trains, with what an engine without sleep holds."""
        return self._processes * (self.train.peak + self.sample.while_training)

    @property
    def sampling_bytes(self) -> int:
        """Peak of a device while the engine samples."""
        return self._processes * self.sample.total

    @property
    def _processes(self) -> int:
        """Number of processes that share the memory of a device: on a CPU, those of the machine."""
        return 1 if self.training.gpu else self.training.devices

    @property
    def training_fits(self) -> bool:
        return self.training_bytes <= self.usable

    @property
    def sampling_fits(self) -> bool:
        """Whether the engine fits beside the trainer, and has room for a response of the full length."""
        return self.sampling_bytes <= self.usable and self.sample.sequences >= 1

    @property
    def fits(self) -> bool:
        return self.training_fits and self.sampling_fits


def plan_of(config: Mapping[str, Any], device_bytes: float) -> Plan:
    """The plan of a complete configuration, as `fit --print_config` prints it.

    Args:
        config: Sections `trainer`, `model` and `data`.
        device_bytes: Memory of each GPU, or of the machine on a CPU.

    Raises:
        UserError: The policy cannot be read, or the trainer does not support the strategy.
    """
    trainer, model, data = config["trainer"], config["model"], config["data"]
    shape = read_shape(model["policy"])
    gpu = on_gpu(trainer)
    response = data["sampling"]["max_response_tokens"]
    setup = TrainingSetup(
        config=shape,
        micro_batch_tokens=trainer["micro_batch_tokens"],
        prompt_tokens=data["max_prompt_tokens"] or GUESSED_PROMPT,
        response_tokens=response,
        group_size=data["group_size"],
        prompts_per_update=data["prompts_per_update"],
        devices=_devices(trainer["devices"], gpu),
        num_nodes=trainer["num_nodes"],
        strategy=_strategy(trainer["strategy"]),
        precision=trainer["precision"],
        reference=model["reference"] is not None,
        dtype=model["dtype"],
        gradient_checkpointing=model["gradient_checkpointing"],
        attn_implementation=model["attn_implementation"],
        lora=LoRA(**model["lora"]) if model["lora"] is not None else None,
        optimizer=_optimizer(model["optimizer"]),
        gpu=gpu,
    )
    if setup.world > 1 and setup.strategy == "auto":
        setup = replace(setup, strategy="ddp")  # what Lightning takes for several devices
    return Plan(setup, engine_setup(data["engine"], setup), device_bytes)


def on_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a run trains on GPUs, from its section `trainer`."""
    accelerator = trainer["accelerator"]
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def _devices(devices: Any, gpu: bool) -> int:
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        return max(1, torch.cuda.device_count()) if gpu else 1
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each.strip()])
    return int(devices)


def _strategy(given: Any) -> Literal["auto", "ddp"] | FullyShardStrategy:
    if given in ("auto", "ddp"):
        return cast(Literal["auto", "ddp"], given)
    cls = pkgutil.resolve_name(given["class_path"]) if isinstance(given, Mapping) else None
    if not (isinstance(cls, type) and issubclass(cls, FullyShardStrategy)):
        name = given["class_path"] if isinstance(given, Mapping) else given
        raise UserError(
            f"trainer: strategy {name} is not supported; use auto, ddp or rence_lightning.training.FullyShardStrategy"
        )
    return cls(**(given.get("init_args") or {}))


def _optimizer(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return FUSED_ADAMW if given is None else given
    return partial(pkgutil.resolve_name(given["class_path"]), **(given.get("init_args") or {}))
