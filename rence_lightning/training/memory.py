"""Memory of a run by arithmetic: of an update on each device, and of sampling beside the trainer.

The formulas are those of a decoder like Qwen3 (two norms a layer, normalized queries and keys, a gated MLP) with fused
attention and AdamW; simpler layers take less. The CUDA context, workspaces of cuBLAS and NCCL and the fragments of
torch's allocator are not counted; `USABLE` leaves room for them.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA
from rence_lightning.policy.adapters import add_adapters
from rence_lightning.policy.load import resolve_policy
from rence_lightning.policy.output_projection import LOGITS_PER_CHUNK

USABLE = 0.95
"""Share of a device's memory that a run may take."""

PREFILL = 8192
"""Number of prompt tokens that vLLM reads at a time by default."""

GUESSED_PROMPT = 1024
"""Length of the longest prompt where the configuration does not limit it."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Part(NamedTuple):
    """A part of a device's memory: its name, its bytes, and the formula with its numbers."""

    name: str
    bytes: float
    formula: str


class Shape(NamedTuple):
    """The sizes of a policy on which its memory depends.

    Attributes:
        parameters: Number of all parameters, without adapters.
        adapters: Number of parameters of adapters.
        ends: Number of parameters of the embedding and the output projection, counted once if they are tied.
        vocabulary: Number of tokens in the vocabulary.
        layers: Number of layers.
        hidden: Size of the hidden states.
        inner: Size of the inner states of the MLP, of all experts together that a token passes through.
        queries: Size of the queries of all heads.
        keys: Size of the keys of all heads, and of the values.
    """

    parameters: int
    adapters: int
    ends: int
    vocabulary: int
    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int


@cache
def read_shape(policy: str, rank: int = 0, target_modules: str | tuple[str, ...] = "all-linear") -> Shape:
    """The sizes of a policy, of which only config.json is read: parameters are counted on torch's meta device.

    Args:
        policy: Name of the policy, as in `model.policy`.
        rank: Rank of the adapters; 0 for none.
        target_modules: Layers that have adapters.

    Raises:
        UserError: There is no such policy, its configuration cannot be read, or the adapters do not suit it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    name = resolve_policy(policy)
    try:
        config = AutoConfig.from_pretrained(name if Path(name).is_dir() else _of_hub(name))
    except Exception as error:  # the hub's client passes on errors of other libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"policy: cannot read the configuration of '{policy}': {reason} (give a folder with its config.json, or a "
            "hub name)"
        ) from error
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    ends = {id(end.weight): end.weight.numel() for end in (model.get_input_embeddings(), model.get_output_embeddings())}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if rank:
        targets = target_modules if isinstance(target_modules, str) else list(target_modules)
        add_adapters(model, LoRA(r=rank, target_modules=targets), policy)
    text: Any = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    inner = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None)
    return Shape(
        parameters,
        adapters=sum(parameter.numel() for parameter in model.parameters()) - parameters,
        ends=sum(ends.values()),
        vocabulary=text.vocab_size,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=(inner or 4 * text.hidden_size) * (getattr(text, "num_experts_per_tok", None) or 1),
        queries=head * text.num_attention_heads,
        keys=head * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
    )


def _of_hub(name: str) -> str:
    """Where the configuration of a policy on the hub is: its folder in the cache, or its name if it can be fetched. The
    hub is asked once; `from_pretrained` would ask for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(cached := try_to_load_from_cache(name, "config.json"), str):
        return str(Path(cached).parent)
    get_hf_file_metadata(hf_hub_url(name, "config.json"))
    return name


class Memory:
    """The memory of a run on each of its devices.

    Args:
        config: Complete configuration, as `fit --print_config` prints it.
        device_bytes: Memory of each GPU, or of the machine on a CPU.

    Raises:
        UserError: The policy cannot be read, or the trainer does not support the strategy.
    """

    def __init__(self, config: Mapping[str, Any], device_bytes: float) -> None:
        self.config, self.device_bytes = config, device_bytes
        trainer, self._model, data = config["trainer"], config["model"], config["data"]
        self.gpu = on_gpu(trainer)
        self.devices = _devices(trainer["devices"], self.gpu)
        self.world = self.devices * trainer["num_nodes"]
        given = trainer["strategy"]
        self.strategy = str(given["class_path"] if isinstance(given, Mapping) else given).rpartition(".")[2]
        self.sharded = self.strategy == "FullyShardStrategy"
        if not self.sharded and self.strategy not in ("auto", "ddp"):
            raise UserError(f"trainer: strategy {self.strategy} is not supported; use auto, ddp or FullyShardStrategy")
        self._strategy = (given.get("init_args") or {}) if isinstance(given, Mapping) else {}
        size = self._strategy.get("shard_size") or self.world
        self.shards = (self.devices if size == "node" else int(size)) if self.sharded else 1
        self.offload = bool(self._strategy.get("cpu_offload"))
        lora = self._model["lora"]
        self.lora = lora is not None
        targets = (lora or {}).get("target_modules", "all-linear")
        targets = targets if isinstance(targets, str) else tuple(targets)
        self.shape = read_shape(self._model["policy"], lora["r"] if lora else 0, targets)
        self.trained = self.shape.adapters or self.shape.parameters
        self.weight = BYTES[self._model["dtype"]]
        self.compute = 2 if trainer["precision"].endswith("-mixed") else self.weight
        self.group_size, self.prompts_per_update = data["group_size"], data["prompts_per_update"]
        self.prompt = data["max_prompt_tokens"] or GUESSED_PROMPT
        self.response = data["sampling"]["max_response_tokens"]
        self.sequence = self.prompt + self.response
        self.longest_group = self.prompt + self.group_size * self.response
        self.update_tokens = math.ceil(self.prompts_per_update / self.world) * self.longest_group
        # A sequence cannot be cut, and an update may have fewer tokens than the budget.
        self.tokens = max(min(trainer["micro_batch_tokens"], self.update_tokens), self.sequence)
        engine = data["engine"] or {"class_path": "TransformersEngine"}
        self.vllm, self.engine = engine["class_path"].endswith("VLLMEngine"), engine.get("init_args") or {}
        dtype = (self.engine.get("dtype") if self.vllm else None) or self._model["dtype"]
        self._engine_size, self.utilization = BYTES[dtype], self.engine.get("gpu_memory_utilization", 0.5)
        self.max_num_seqs = self.engine.get("max_num_seqs", 256)
        self.tensor_parallel = self.engine.get("tensor_parallel_size", 1)
        # On a CPU, the processes share the memory of the machine.
        self.usable = USABLE * device_bytes / (1 if self.gpu else self.devices)

    def changed(self, options: Mapping[str, Any]) -> "Memory":
        """The memory with other values of some options, given as `section.key`."""
        config = copy.deepcopy(dict(self.config))
        for name, value in options.items():
            *path, key = name.split(".")
            section = config
            for step in path:
                section[step] = section = section[step] or {}
            section[key] = copy.deepcopy(value)
        return Memory(config, self.device_bytes)

    def training(self) -> list[Part]:
        """The parts of a device's memory at the peak of an update."""
        held = [] if self.offload else self.states()
        engine = [] if self.vllm else self._engine_weights()
        if self.vllm and not self.engine.get("sleep", True):
            engine = [
                Part("engine, which does not sleep", self.utilization * self.device_bytes, f"{self.utilization:g}")
            ]
        return [part for part in (*held, *self._activations(), *self._gathered(), *engine) if part.bytes]

    def states(self) -> list[Part]:
        """Parameters, gradients and the optimizer's states, wherever they are."""
        size, n = 4 if self.lora else self.weight, self.shards
        frozen = self.shape.parameters if self.lora or self._model["reference"] is not None else 0
        trained, by = _millions(self.trained), f" / {n}" if n > 1 else ""
        both = f"({size} x {trained} + {self.weight} x {_millions(frozen)} frozen)" if frozen else f"{size} x {trained}"
        whole = size * self.trained if n > 1 and not self._strategy.get("reduce_each_pass", True) else 0
        return [
            Part("parameters", (size * self.trained + self.weight * frozen) / n, both + by),
            Part("gradients", size * self.trained / n + whole, f"{size} x {trained}{by}{' + whole' if whole else ''}"),
            Part("optimizer states", 2 * size * self.trained / n, f"AdamW: {2 * size} x {trained}{by}"),
        ]

    def _activations(self) -> list[Part]:
        """What the passes hold in the phase of an update in which it is most."""
        shape, c, tokens = self.shape, self.compute, self.tokens
        head = shape.vocabulary * shape.hidden
        # FSDP2 casts the embedding; autocast leaves it, and the states between layers, in the type of the weights.
        residual = c if self.sharded else self.weight
        # A layer: norms in float32, inputs of linear layers, queries and keys before and after their norms, the MLP.
        layer = shape.hidden * (8 + 2 * residual + c * (2 if residual == c else 5)) + 4 * c * shape.inner
        layer += (4 + 3 * c + (4 if residual != c else 0)) * (shape.queries + shape.keys)
        backward = 2 * c * shape.inner + (4 * (shape.hidden + shape.inner) if self.lora else 0)
        if checkpointing := self._model["gradient_checkpointing"]:
            backward, each, name = layer + backward, residual * shape.hidden, "states between layers"
        else:
            each, name = layer, "activations of all layers"
        kept = Part(name, each * shape.layers * tokens, f"{each:,} bytes x {shape.layers} layers x {tokens:,} tokens")
        logits = min(LOGITS_PER_CHUNK, tokens * shape.vocabulary)
        chunk = Part("chunk of logits", 8 * logits, f"logits, gradient: 2 x 4 x {_millions(logits)}")
        cast = c * shape.parameters if c < residual else 0
        casts = [Part("weights cast by autocast", cast, f"{c} x {_millions(shape.parameters)}")] if cast else []
        copies = 4 * ((self.sharded or self.weight < 4) + (not self.lora))
        projection = f"{copies} x {_millions(head)} of weight and gradient, {4 * shape.hidden:,} x {tokens:,} tokens"
        d_head = 0 if self.lora else residual * head
        forward = [*casts, chunk]
        last = [Part("output projection", copies * head + 4 * shape.hidden * tokens, projection), chunk]
        within = [
            Part("backward pass of a layer", backward * tokens, f"{backward:,} bytes x {tokens:,} tokens"),
            Part("gradient of the projection", d_head, f"{residual} x {_millions(head)}"),
        ]
        if not checkpointing:  # what is kept refers to the cast weights
            last, within = [*last, *casts], [*within, *casts]
        return [kept, *max((forward, last, within), key=_total)]

    def _gathered(self) -> list[Part]:
        """What the exchange of parameters and gradients between devices holds."""
        shape, c = self.shape, self.compute
        if not self.sharded:
            size = (4 if self.lora else self.weight) if self.world > 1 else 0
            return [Part("buckets of gradients (ddp)", size * self.trained, f"{size} x {_millions(self.trained)}")]
        layer = (shape.parameters - shape.ends) / shape.layers
        each = 2 * c + 4 if self.shards > 1 else c  # two layers, and a layer's gradient in float32
        ends = 2 * c if self._model["reference"] is not None and not self.lora else c  # the reference policy's, too
        parts = [Part("gathered ends", ends * shape.ends, f"{ends} x {_millions(shape.ends)} of embedding, projection")]
        parts.append(Part("gathered layers", each * layer, f"{each} x {_millions(layer)} of a layer"))
        copies = 8 * shape.ends / self.shards if self.offload else 0
        return [*parts, Part("copies of shards", copies, f"8 x {_millions(shape.ends)} / {self.shards}")]

    def _engine_weights(self) -> list[Part]:
        if not self.vllm and not self.sharded:
            return []  # it reads the trainer's weights in place
        size, n, count = self._engine_size, self.tensor_parallel, self.shape.parameters
        return [
            Part("weights of the engine", size * count / n, f"{size} x {_millions(count)}{f' / {n}' if n > 1 else ''}")
        ]

    def sampling(self) -> tuple[list[Part], int]:
        """The parts of a device's memory while the engine samples, and the number of sequences of the full length that
        it samples at a time: vLLM fills its share of the GPU with keys and values."""
        shape = self.shape
        parts = [Part("trainer: parameters, optimizer", self.kept_bytes, "as above"), *self._engine_weights()]
        token = 2 * shape.layers * shape.keys * self._engine_size / self.tensor_parallel
        tokens, sequences = self.max_num_seqs * self.sequence, self.max_num_seqs
        if self.vllm:
            buffers = 8 * self.max_num_seqs * shape.vocabulary + 4 * PREFILL * (shape.inner + 2 * shape.hidden)
            formula = f"8 x {self.max_num_seqs} x {shape.vocabulary:,} logits, {PREFILL:,} tokens of prompts"
            parts.append(Part("logits, activations", buffers, formula))
            tokens = max(0, int((self.utilization * self.device_bytes - _total(parts[1:])) / token))
            sequences = min(sequences, tokens // self.sequence)
        parts.append(Part("keys and values", tokens * token, f"{token:,.0f} bytes x {tokens:,} tokens"))
        return [part for part in parts if part.bytes], sequences

    @property
    def kept_bytes(self) -> float:
        """What the trainer keeps on a device while the engine samples."""
        parameters, _, moments = self.states()
        return 0.0 if self.offload else parameters.bytes + moments.bytes

    @property
    def training_bytes(self) -> float:
        """Memory of a device at the peak of an update."""
        return _total(self.training())

    @property
    def sampling_bytes(self) -> float:
        """Memory of a device while the engine samples."""
        return _total(self.sampling()[0])

    @property
    def training_fits(self) -> bool:
        """Whether an update fits."""
        return self.training_bytes <= self.usable

    @property
    def sampling_fits(self) -> bool:
        """Whether the engine fits beside the trainer, with room for a response of the full length."""
        return self.sampling_bytes <= self.usable and self.sampling()[1] >= 1


def _total(parts: Iterable[Part]) -> float:
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


def _millions(count: float) -> str:
    return f"{count / 1e6:,.1f} M"
