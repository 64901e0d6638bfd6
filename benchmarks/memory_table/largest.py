"""The largest pass of a policy that fits, for any number of GPUs, from tracked updates."""

import math
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.qwen3 import qwen3
from rence_lightning.planning import USABLE, TrainingMemory, TrainingSetup, training_memory
from rence_lightning.policy import LoRA
from rence_lightning.training.strategy import FullyShardStrategy

TRACKED = 8
"""Number of GPUs that is tracked. With `cpu_offload` it is 1, which is not below the memory on more GPUs: what is on a
GPU is hardly sharded."""

PROMPT, RESPONSE, GROUP = 1536, 6656, 8
SHORTEST, LONGEST = 8192, 57344
"""Tokens of the shortest possible pass, one sequence, and of one that holds the longest group of the paper's run."""

TRACKED_TOKENS = (SHORTEST, 24576, LONGEST)
"""Tokens of the passes that are tracked."""

STEP = 1024
SHARDED = ("parameters", "gradients", "optimizer states")


@dataclass(frozen=True)
class Mode:
    """A way to train.

    Attributes:
        name: Name in the report.
        gradient_checkpointing: Whether activations are recomputed.
        cpu_offload: Whether shards, gradients and optimizer states are in main memory.
        lora: Whether adapters of rank 32 are trained above weights in bfloat16.
    """

    name: str
    gradient_checkpointing: bool = True
    cpu_offload: bool = False
    lora: bool = False

    def setup(self, size: str, gpus: int, tokens: int) -> TrainingSetup:
        """The settings of a run in this way."""
        return TrainingSetup(
            config=qwen3(size),
            micro_batch_tokens=tokens,
            prompt_tokens=PROMPT,
            response_tokens=RESPONSE,
            group_size=GROUP,
            devices=min(gpus, 8),
            num_nodes=math.ceil(gpus / 8),
            strategy=FullyShardStrategy(cpu_offload=self.cpu_offload),
            gradient_checkpointing=self.gradient_checkpointing,
            dtype="bfloat16" if self.lora else "float32",
            lora=LoRA() if self.lora else None,
        )


MODES = (
    Mode("Full training, gradient checkpointing"),
    Mode("Full training, without gradient checkpointing", gradient_checkpointing=False),
    Mode("Full training, gradient checkpointing, cpu_offload", cpu_offload=True),
    Mode("Adapters (LoRA, r = 32, base in bfloat16), gradient checkpointing", lora=True),
    Mode(
        "Adapters (LoRA, r = 32, base in bfloat16), without gradient checkpointing",
        gradient_checkpointing=False,
        lora=True,
    ),
)


@dataclass(frozen=True)
class Peaks:
    """Peak memory by the tokens of a pass and the number of GPUs.

    Updates of `TRACKED_TOKENS` are tracked on some GPUs. Between them the peak is taken from the line through two
    of them, which is not below it: a peak is the largest of several moments, each linear in the tokens. What is sharded
    is divided by the number of GPUs, and nothing else depends on it.

    Attributes:
        tracked: Memory by the tokens of a pass.
        gpus: Number of GPUs that were tracked.
    """

    tracked: dict[int, TrainingMemory]
    gpus: int

    def at(self, tokens: int, gpus: int) -> float:
        """Peak in bytes."""
        low, high = next(each for each in pairwise(TRACKED_TOKENS) if tokens <= each[1])
        part = (tokens - low) / (high - low)
        return (1 - part) * self._on(low, gpus) + part * self._on(high, gpus)

    def largest(self, gpus: int, gigabytes: float) -> int | None:
        """The largest number of tokens that fits, in steps of 1,024 and at most `LONGEST`; None if none does."""
        fits = (t for t in range(LONGEST, SHORTEST - 1, -STEP) if self.at(t, gpus) <= USABLE * gigabytes * 1e9)
        return next(fits, None)

    def _on(self, tokens: int, gpus: int) -> float:
        memory = self.tracked[tokens]
        sharded = sum(memory.kinds.get(kind, 0) for kind in SHARDED)
        return memory.peak + sharded * (self.gpus / gpus - 1)


def peaks(mode: Mode, size: str) -> Peaks:
    """Tracks the updates of a policy."""
    gpus = 1 if mode.cpu_offload else TRACKED
    return Peaks({tokens: training_memory(mode.setup(size, gpus, tokens)) for tokens in TRACKED_TOKENS}, gpus)
