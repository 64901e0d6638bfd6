"""Memory of a run by arithmetic: of an update on each device, and of sampling beside the trainer.

The formulas are those of a decoder like Qwen3 (two norms a layer, normalized queries and keys, a gated MLP) with fused
attention and AdamW; simpler layers take less. The CUDA context, workspaces of cuBLAS and NCCL and the fragments of
torch's allocator are not counted; `USABLE` leaves room for them.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rence_lightning.errors import UserError, one_line
from rence_lightning.policy import LoRA
from rence_lightning.policy.adapters import add_adapters
from rence_lightning.policy.load import resolve_policy, text_config
from rence_lightning.policy.output_projection import LOGITS_PER_CHUNK, LOGITS_PER_CHUNK_ON_GPU

USABLE = 0.95
"""Share of a device's memory that a run may take."""

GUESSED_PROMPT = 1024
"""Length of the longest prompt where the configuration does not limit it."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Part(NamedTuple):
    """A part of a device's memory: its name, its bytes, and the formula with its numbers."""

    name: str
    bytes: float
    formula: str


class Shape(NamedTuple):
    """The sizes of a policy on which its memory depends."""

    parameters: int  # without adapters
    adapters: int  # parameters of adapters
    ends: int  # parameters of the embedding and the output projection, counted once if they are tied
    vocabulary: int
    layers: int
    hidden: int
    inner: int  # of the MLP; of all experts together that a token passes through
    queries: int  # of all heads
    keys: int  # of all heads, and values as well


@cache
def read_shape(policy: str, lora: str | None = None) -> Shape:
    """The sizes of a policy, of which only config.json is read: parameters are counted on torch's meta device.

    `lora` has the settings of the adapters as JSON, which `cache` can take.

    Raises:
        UserError: There is no such policy, its configuration cannot be read, or the adapters do not suit it.
    """
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig, AutoModelForCausalLM

    name = resolve_policy(policy)
    try:  # by the hub's client, which asks once; `from_pretrained` asks for half a minute
        file = name if Path(name).is_dir() else hf_hub_download(name, "config.json")
        text: Any = text_config(AutoConfig.from_pretrained(file))
    except Exception as error:  # the hub's client passes on errors of other libraries
        raise UserError(
            f"policy: cannot read the configuration of '{policy}': {one_line(error)} (give a folder with its "
            "config.json, or a hub name)"
        ) from error
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(text)
    ends = {id(end.weight): end.weight.numel() for end in (model.get_input_embeddings(), model.get_output_embeddings())}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if lora is not None:
        add_adapters(model, LoRA(**json.loads(lora)), policy)
    heads = _size(text, "num_attention_heads") or 1  # none: state spaces
    head = _size(text, "head_dim") or text.hidden_size // heads
    inner = _size(text, "moe_intermediate_size") or _size(text, "intermediate_size") or 4 * text.hidden_size
    return Shape(
        parameters,
        adapters=sum(parameter.numel() for parameter in model.parameters()) - parameters,
        ends=sum(ends.values()),
        vocabulary=text.vocab_size,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=inner * (_size(text, "num_experts_per_tok") or 1),
        queries=head * heads,
        keys=head * (_size(text, "num_key_value_heads") or heads),
    )


def _size(config: Any, name: str) -> int:
    """A size in a configuration, the largest where it varies between layers; 0 where there is none."""
    sizes = [getattr(layer, name, None) or 0 for layer in getattr(config, "per_layer_config", None) or [config]]
    return max(max(size, default=0) if isinstance(size, list) else size for size in sizes)


class Memory:
    """The memory of a run on each of its devices.

    Args:
        config: Complete configuration, as `fit --print_config` prints it.
        device_bytes: Memory of each GPU, or of the machine on a CPU, which its processes share.

    Raises:
        UserError: The policy cannot be read.
    """

    def __init__(self, config: Mapping[str, Any], device_bytes: float) -> None:
        self.config, self.device_bytes = config, device_bytes
        trainer, model, data = config["trainer"], config["model"], config["data"]
        self.gpu, lora = on_gpu(trainer), model["lora"]
        self.devices = _devices(trainer["devices"], self.gpu)
        self.nodes = trainer["num_nodes"]
        self.world = self.devices * self.nodes
        strategy = trainer["strategy"] if isinstance(trainer["strategy"], Mapping) else {}
        settings = strategy.get("init_args") or {}
        self.sharded = "FullyShardStrategy" in str(trainer["strategy"])
        size = settings.get("shard_size") or self.world if self.sharded else 1
        self.shards = self.devices if size == "node" else int(size)
        self.offload = bool(settings.get("cpu_offload"))
        self.shape = read_shape(model["policy"], None if lora is None else json.dumps(lora))
        self.lora, self.trained = lora is not None, self.shape.adapters or self.shape.parameters
        self.weight = BYTES[model["dtype"]]
        self.compute = 2 if trainer["precision"].endswith("-mixed") else self.weight
        self.checkpointing, self.reference = model["gradient_checkpointing"], model["reference"] is not None
        self.prompt = data["max_prompt_tokens"] or GUESSED_PROMPT
        self.response = data["sampling"]["max_response_tokens"]
        self.sequence = self.prompt + self.response
        self.longest_group = self.prompt + data["group_size"] * self.response
        self.update_tokens = math.ceil(data["prompts_per_update"] / self.world) * self.longest_group
        # A sequence cannot be cut, and an update may have fewer tokens than the budget.
        self.tokens = max(min(trainer["micro_batch_tokens"], self.update_tokens), self.sequence)
        engine = data["engine"] or {}
        self.engine_name = engine.get("class_path", "TransformersEngine").rpartition(".")[2]
        self.vllm, self.engine = self.engine_name == "VLLMEngine", engine.get("init_args") or {}
        self.engine_size = BYTES[self.engine.get("dtype") or model["dtype"]]
        self.max_num_seqs = self.engine.get("max_num_seqs", 256)
        self.usable = USABLE * device_bytes / (1 if self.gpu else self.devices)

    def states(self) -> list[Part]:
        """Parameters, gradients and AdamW's moments, in main memory with `cpu_offload`."""
        size, n = 4 if self.lora else self.weight, self.shards
        frozen = self.weight * self.shape.parameters if self.lora or self.reference else 0
        by = f"{size} x {self.trained / 1e6:,.1f} M{f' / {n}' if n > 1 else ''}"
        return [
            Part("parameters", (size * self.trained + frozen) / n, by + (", and the frozen weights" if frozen else "")),
            Part("gradients", size * self.trained / n, by),
            Part("optimizer states", 2 * size * self.trained / n, f"AdamW: 2 x {by}"),
        ]

    def training(self) -> list[Part]:
        """The parts of a device's memory at the peak of an update."""
        shape, c, tokens = self.shape, self.compute, self.tokens
        # FSDP2 casts the embedding; autocast leaves it, and the states between layers, in the type of the weights.
        residual = c if self.sharded else self.weight
        # A layer: norms in float32, inputs of linear layers, queries and keys before and after their norms, the MLP.
        layer = shape.hidden * (8 + 2 * residual + c * (2 if residual == c else 5)) + 4 * c * shape.inner
        layer += (4 + 3 * c + (4 if residual != c else 0)) * (shape.queries + shape.keys)
        backward = 2 * c * shape.inner + (4 * (shape.hidden + shape.inner) if self.lora else 0)
        each = residual * shape.hidden if self.checkpointing else layer
        backward += layer if self.checkpointing else 0
        most = LOGITS_PER_CHUNK_ON_GPU if self.gpu else LOGITS_PER_CHUNK
        head, chunk = shape.vocabulary * shape.hidden, 8 * min(most, tokens * shape.vocabulary)
        copies = (self.sharded or self.weight < 4) + (not self.lora)
        projection = 4 * copies * head + 4 * shape.hidden * tokens + chunk
        within = backward * tokens + (0 if self.lora else residual * head)
        cast = c * shape.parameters if c < residual else 0
        kept = "states between layers" if self.checkpointing else "activations of all layers"
        parts = [
            *([] if self.offload else self.states()),
            Part(kept, each * shape.layers * tokens, f"{each:,} bytes x {shape.layers} layers x {tokens:,} tokens"),
            max(
                Part("backward pass of a layer", within, f"{backward:,} bytes x {tokens:,} tokens, head's gradient"),
                Part("output projection", projection, "weight and gradient in float32, states, a chunk of logits"),
                key=lambda part: part.bytes,
            ),
            Part("weights cast by autocast", cast, f"{c} x all weights"),
            *self._exchanged(),
            *([] if self.vllm else self._engine_weights()),
        ]
        return [part for part in parts if part.bytes]

    def _exchanged(self) -> list[Part]:
        """What the exchange of parameters and gradients between devices holds."""
        shape, c = self.shape, self.compute
        if not self.sharded:
            size = (4 if self.lora else self.weight) if self.world > 1 else 0
            return [Part("buckets of gradients (ddp)", size * self.trained, f"{size} x trained parameters")]
        layer = (shape.parameters - shape.ends) / shape.layers * (2 * c + 4 if self.shards > 1 else c)
        copies = 8 * shape.ends / self.shards if self.offload else 0
        ends = shape.ends * (2 * c if self.reference and not self.lora else c)
        return [Part("gathered weights", ends + layer + copies, "embedding, projection, two layers and a gradient")]

    def _engine_weights(self) -> list[Part]:
        if not self.vllm and not self.sharded:
            return []  # it reads the trainer's weights in place
        size, n = self.engine_size, self.engine.get("tensor_parallel_size", 1)
        formula = f"{size} x {self.shape.parameters / 1e6:,.1f} M{f' / {n}' if n > 1 else ''}"
        return [Part("weights of the engine", size * self.shape.parameters / n, formula)]

    def sampling(self) -> tuple[list[Part], int]:
        """The parts of a device's memory while the engine samples, and the number of sequences of the full length that
        it samples at a time: vLLM fills its share of the GPU with keys and values."""
        shape, sequences = self.shape, self.max_num_seqs
        parts = [Part("trainer: parameters, optimizer", self.kept_bytes, "as above"), *self._engine_weights()]
        token = 2 * shape.layers * shape.keys * self.engine_size / self.engine.get("tensor_parallel_size", 1)
        tokens = sequences * self.sequence
        if self.vllm:
            buffers = 8 * sequences * shape.vocabulary + 4 * 8192 * (shape.inner + 2 * shape.hidden)
            parts.append(Part("logits, activations", buffers, f"{sequences} logits; 8,192 tokens of prompts at a time"))
            share = self.engine.get("gpu_memory_utilization", 0.5) * self.device_bytes
            tokens = max(0, int((share - total(parts[1:])) / token))
            sequences = min(sequences, tokens // self.sequence)
        parts.append(Part("keys and values", tokens * token, f"{token:,.0f} bytes x {tokens:,} tokens"))
        return [part for part in parts if part.bytes], sequences

    @property
    def kept_bytes(self) -> float:
        """What the trainer keeps on a device while the engine samples."""
        parameters, _, moments = self.states()
        return 0.0 if self.offload else parameters.bytes + moments.bytes

    @property
    def training_fits(self) -> bool:
        """Whether an update fits."""
        return total(self.training()) <= self.usable

    @property
    def sampling_fits(self) -> bool:
        """Whether the engine fits beside the trainer, with room for a response of the full length."""
        parts, sequences = self.sampling()
        return total(parts) <= self.usable and sequences >= 1


def total(parts: list[Part]) -> float:
    """Bytes of all parts."""
    return sum(part.bytes for part in parts)


def on_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a run trains on GPUs, from its section `trainer`."""
    accelerator = trainer["accelerator"]
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def _devices(devices: Any, gpu: bool) -> int:
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        return max(1, torch.cuda.device_count()) if gpu else 1
    return len([each for each in devices.split(",") if each.strip()]) if "," in str(devices) else int(devices)
