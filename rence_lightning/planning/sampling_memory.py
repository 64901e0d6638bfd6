"""Memory while the engine samples, by arithmetic: the engine fills the share of the GPU that it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rence_lightning.planning.setup import TrainingSetup
from rence_lightning.planning.training_memory import TrainingMemory
from rence_lightning.training.strategy import FullyShardStrategy

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PREFILL = 8192
"""Number of prompt tokens that vLLM reads at a time by default."""


@dataclass(frozen=True)
class EngineSetup:
    """What the memory of an engine depends on.

    Attributes:
        vllm: Whether it is `VLLMEngine`, which has its share of GPUs; `TransformersEngine` uses the trainer's model.
        dtype: Data type of weights, keys and values.
        max_num_seqs: Largest number of responses at a time.
        gpu_memory_utilization: Share of each GPU for `VLLMEngine`.
        tensor_parallel_size: Number of GPUs that share the weights of an engine.
        sleep: Whether the engine frees its memory while the policy trains.
    """

    vllm: bool
    dtype: str
    max_num_seqs: int
    gpu_memory_utilization: float = 0.0
    tensor_parallel_size: int = 1
    sleep: bool = True


@dataclass(frozen=True)
class SamplingMemory:
    """Memory of a device while the engine samples, in bytes.

    Attributes:
        kept: Parameters and optimizer states of the trainer.
        weights: Weights of the engine.
        buffers: Activations of the engine.
        cache: Keys and values.
        cache_tokens: Number of tokens whose keys and values there is room for; with tensor parallelism, for all of the
            GPUs that share an engine.
        sequences: Number of prompts with a response of the full length that are sampled at a time.
        while_training: What the engine holds while the policy trains.
    """

    kept: int
    weights: int
    buffers: int
    cache: int
    cache_tokens: int
    sequences: int
    while_training: int

    @property
    def total(self) -> int:
        """Memory of the trainer and the engine together."""
        return self.kept + self.weights + self.buffers + self.cache


def sampling_memory(
    setup: TrainingSetup, engine: EngineSetup, training: TrainingMemory, device_bytes: float
) -> SamplingMemory:
    """Memory while the engine samples.

    Args:
        setup: Settings of training.
        engine: Settings of the engine.
        training: Memory of training.
        device_bytes: Memory of the device.
    """
    size, length = BYTES[engine.dtype], setup.prompt_tokens + setup.response_tokens
    plain = training.parameters - (training.trained if setup.lora is not None else 0)
    token = cache_bytes_of_token(setup.config, size) // engine.tensor_parallel_size
    if engine.vllm:
        weights = plain * size // engine.tensor_parallel_size
        text = setup.config.get_text_config()
        # Logits in float32 and their log-probabilities, and the widest layer of a batch of prompts.
        buffers = 2 * 4 * engine.max_num_seqs * text.vocab_size
        buffers += PREFILL * 2 * (2 * getattr(text, "intermediate_size", 4 * text.hidden_size) + 4 * text.hidden_size)
        cache = max(0, int(engine.gpu_memory_utilization * device_bytes) - weights - buffers)
        held = 0 if engine.sleep else weights + buffers + cache
        tokens = cache // token
        sequences = min(engine.max_num_seqs, tokens // length)
    else:
        copies = isinstance(setup.strategy, FullyShardStrategy)  # otherwise it reads the trainer's weights in place
        weights, buffers = plain * size if copies else 0, 0
        sequences, tokens = engine.max_num_seqs, engine.max_num_seqs * length
        cache = tokens * token
        held = weights
    return SamplingMemory(training.kept, weights, buffers, cache, tokens, sequences, held)


def cache_bytes_of_token(config: "PretrainedConfig", size: int) -> int:
    """Bytes of the keys and values of a token in all layers, with numbers of `size` bytes."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    return int(2 * text.num_hidden_layers * key_heads * width * size)


def engine_setup(engine: Mapping[str, Any] | None, setup: TrainingSetup) -> EngineSetup:
    """The engine of a configuration, from its `class_path` and `init_args`; None is the default engine."""
    given: Mapping[str, Any] = engine or {"class_path": "TransformersEngine"}
    arguments = given.get("init_args") or {}
    vllm = given["class_path"].rpartition(".")[2] == "VLLMEngine"
    return EngineSetup(
        vllm=vllm,
        dtype=(arguments.get("dtype") if vllm else None) or setup.dtype,
        max_num_seqs=arguments.get("max_num_seqs", 256),
        gpu_memory_utilization=arguments.get("gpu_memory_utilization", 0.5) if vllm else 0.0,
        tensor_parallel_size=arguments.get("tensor_parallel_size", 1),
        sleep=arguments.get("sleep", True),
    )
