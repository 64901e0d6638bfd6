"""What the memory of an update depends on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch.optim import Optimizer

from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA
from rence_lightning.policy.load import DType, resolve_policy
from rence_lightning.policy.packed_row import Segment
from rence_lightning.training.precision import Precision
from rence_lightning.training.strategy import FullyShardStrategy

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FUSED_ADAMW: OptimizerCallable = partial(torch.optim.AdamW, fused=True)


@dataclass(frozen=True)
class TrainingSetup:
    """A policy's shape, and the settings of a run on which the memory of an update depends.

    Attributes:
        config: Shape of the policy.
        micro_batch_tokens: Largest number of tokens of a pass.
        prompt_tokens: Length of the longest prompt.
        response_tokens: Length of the longest response.
        group_size: Number of responses to a prompt, K.
        prompts_per_update: Number of prompts of an update on all devices together; None for as many as fill a pass.
        devices: Number of devices of each machine.
        num_nodes: Number of machines.
        strategy: `auto` (one device), `ddp`, or the strategy that shards the policy.
        precision: Precision of the computation.
        reference: Whether a frozen copy of the policy computes a penalty (`model.reference`); adapters need no copy.
        dtype: Data type of the parameters; with adapters, that of the frozen ones.
        gradient_checkpointing: Whether activations are recomputed in the backward pass.
        attn_implementation: Name of the attention implementation of padded rows; None for packed rows.
        lora: Adapters that are trained in place of the weights.
        optimizer: Function that builds the optimizer from the parameters that are trained.
        gpu: Whether the devices are GPUs.
    """

    config: "PretrainedConfig"
    micro_batch_tokens: int
    prompt_tokens: int
    response_tokens: int
    group_size: int = 8
    prompts_per_update: int | None = None
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp"] | FullyShardStrategy = "auto"
    precision: Precision = "bf16-mixed"
    reference: bool = False
    dtype: DType = "float32"
    gradient_checkpointing: bool = True
    attn_implementation: str | None = None
    lora: LoRA | None = None
    optimizer: OptimizerCallable = FUSED_ADAMW
    gpu: bool = True

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.num_nodes

    @property
    def cpu_offload(self) -> bool:
        """Whether shards, gradients and optimizer states are in main memory."""
        return isinstance(self.strategy, FullyShardStrategy) and bool(self.strategy.arguments()["cpu_offload"])

    @property
    def longest_group(self) -> int:
        """Number of tokens of the longest possible group in a packed row."""
        return self.prompt_tokens + self.group_size * self.response_tokens

    @property
    def tokens(self) -> int:
        """Number of tokens of the largest pass: `micro_batch_tokens`, but not less than one sequence, which cannot be
        cut, and not more than a process trains on in an update."""
        most = self.micro_batch_tokens
        if self.prompts_per_update is not None:
            most = min(most, math.ceil(self.prompts_per_update / self.world) * self.longest_group)
        return max(most, self.prompt_tokens + self.response_tokens)

    def new_optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
        """The optimizer of some parameters, with the code path that it takes on the devices of the run."""
        optimizer = self.optimizer(parameters)
        if self.gpu and not isinstance(self.strategy, FullyShardStrategy):
            # On a GPU, an optimizer that is not told otherwise updates all parameters at once.
            for group in optimizer.param_groups:
                if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                    group["foreach"] = True
        return optimizer

    def segments(self) -> list[Segment]:
        """The largest pass: groups of the longest prompt and responses, the last of them cut."""
        segments, left = [], self.tokens
        while left > 1:
            prompt = min(self.prompt_tokens, left - 1)
            left -= prompt
            responses: list[int] = []
            while left and len(responses) < self.group_size:
                responses.append(min(self.response_tokens, left))
                left -= responses[-1]
            segments.append(Segment([0] * prompt, [[0] * length for length in responses]))
        return segments


def read_shape(policy: str) -> "PretrainedConfig":
    """The configuration of a policy: of a folder, which needs no weights and no tokenizer, or of a hub name.

    Raises:
        UserError: There is no such policy, or it cannot be read.
    """
    from transformers import AutoConfig

    folder = resolve_policy(policy)
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"policy: cannot read the configuration of '{policy}': {reason} (give a folder with its config.json, or a "
            "hub name)"
        ) from error
