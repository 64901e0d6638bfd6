"""`python -m benchmarks.gpu_check.update`: times updates of a policy of random weights in the project's trainer.

The engine returns random responses of the maximum length, so that only the update is measured.
"""

import json
import time
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from jsonargparse import ArgumentParser
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from benchmarks.gpu_check.flops import model_flops, peak_flops
from rence_lightning.callbacks import Callback, OldPolicySnapshot
from rence_lightning.distributed import disconnect, max_over_ranks
from rence_lightning.policy import Policy
from rence_lightning.policy.load import EMBEDDED, activation_checkpointing
from rence_lightning.prompts import Problem, ProblemSource, PromptTemplate
from rence_lightning.rewards import Response, Reward, Score
from rence_lightning.rollouts import FinishedGroup, Request, Rollout, SampledPolicy, Sampling, SamplingStep
from rence_lightning.sampling import NoFilter
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import FullyShardStrategy
from rence_lightning.training.trainer import Trainer

GROUP_SIZE = 8
Shape = Literal["tiny", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b"]
SHAPES: dict[Shape, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "qwen3-4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "qwen3-8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}


def shape_config(shape: Shape) -> Qwen3Config:
    """The configuration of a Qwen3 model of one of the `SHAPES`."""
    tiny = shape == "tiny"
    return Qwen3Config(
        **SHAPES[shape],
        num_key_value_heads=2 if tiny else 8,
        head_dim=16 if tiny else 128,
        vocab_size=512 if tiny else 151936,
        max_position_embeddings=40960,
        tie_word_embeddings=shape != "qwen3-8b",
        eos_token_id=2,
        pad_token_id=0,
    )


class RandomPolicyModule(PolicyModule):
    """A policy of random weights of a given shape, with the tokenizer of the embedded policy, which has few tokens."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(f"random:{shape}", gradient_checkpointing=True)
        self._shape = shape

    def configure_model(self, empty: bool = False) -> None:
        if "policy" in self._modules:
            return
        with torch.device("meta" if empty else "cpu"):
            model = Qwen3ForCausalLM(shape_config(self._shape))
        activation_checkpointing(model)
        self.policy = Policy(model, AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic"))


class LongestResponses:
    """An engine that returns random tokens, up to the limit, instead of samples."""

    def sync(self, policy: SampledPolicy) -> None: ...

    def release(self) -> None: ...

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        for index, request in enumerate(requests):
            length, count = request.sampling.max_response_tokens, request.group_size
            generator = torch.Generator().manual_seed(request.seed)
            tokens = torch.randint(3, 15, (count, length), generator=generator)
            rollouts = [Rollout(array("i", row.tolist()), array("f", [-2.5] * length), "length") for row in tokens]
            yield SamplingStep(count, count * length, [FinishedGroup(index, rollouts)])


class EveryOther(Reward):
    """A reward that takes every other response as correct."""

    def score(self, responses: Sequence[Response]) -> list[Score]:
        return [Score(1.0, True, None) if i % 2 else Score(0.1, False, None) for i in range(len(responses))]


class LongProblems(ProblemSource):
    """Problems of a given number of tokens, one character each."""

    def __init__(self, tokens: int, count: int) -> None:
        self.tokens, self.count = tokens, count

    def load(self) -> list[Problem]:
        return [Problem(str(i), "1" * (self.tokens - len(str(i))) + str(i), "1") for i in range(self.count)]


class Stopwatch(Callback):
    """Measures the seconds of each update, with the device synchronized before and after."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.figures: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, module: PolicyModule, batch: Any, batch_idx: int) -> None:
        self._start = self._now()

    def on_train_batch_end(
        self, trainer: Trainer, module: PolicyModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seconds.append(self._now() - self._start)
        self.figures.append(dict(outputs))

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(
    out: Path,
    run_dir: Path,
    shape: Shape = "qwen3-4b",
    devices: int = 1,
    groups: int = 2,
    prompt_tokens: int = 1536,
    response_tokens: int = 6656,
    micro_batch_tokens: int = 32768,
    cpu_offload: bool = False,
    peak_tflops: float | None = None,
) -> None:
    """Takes two updates, the first as a warm-up, and writes the time and memory of the second.

    Args:
        out: Path of the JSON file to write.
        run_dir: Directory of the run.
        shape: Shape of the policy.
        devices: Number of GPUs, or of processes on a CPU.
        groups: Number of prompts per update, with 8 responses each.
        prompt_tokens: Number of tokens of each prompt.
        response_tokens: Number of tokens of each response.
        micro_batch_tokens: Largest number of tokens of a forward pass.
        cpu_offload: Whether to keep weights and optimizer states in main memory, a setting of the strategy.
        peak_tflops: Peak of one GPU in TFLOP/s, dense bfloat16; needed if the table does not list the GPU.
    """
    gpu = torch.cuda.is_available()
    module, stopwatch = RandomPolicyModule(shape), Stopwatch()
    data = RolloutDataModule(
        problems=[LongProblems(prompt_tokens, 2 * groups)],
        template=PromptTemplate("{problem}", chat=False),
        engine=LongestResponses(),
        reward=EveryOther(),
        filter=NoFilter(),
        sampling=Sampling(max_response_tokens=response_tokens),
        group_size=GROUP_SIZE,
        prompts_per_iteration=groups,
        prompts_per_update=groups,
        max_prompt_tokens=prompt_tokens,
    )
    trainer = Trainer(
        max_iterations=2,
        run_dir=str(run_dir),
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        strategy=FullyShardStrategy(cpu_offload=cpu_offload),
        precision="bf16-mixed",
        micro_batch_tokens=micro_batch_tokens,
        callbacks=[OldPolicySnapshot(), stopwatch],
    )
    trainer.fit(module, data)
    memory = max_over_ranks(float(torch.cuda.max_memory_allocated()) if gpu else 0.0)
    if not trainer.is_global_zero:
        return
    seconds, sequences = stopwatch.seconds[-1], groups * GROUP_SIZE
    tokens = sequences * (prompt_tokens + response_tokens)
    flops = model_flops(shape_config(shape), prompt_tokens, response_tokens, sequences)
    device = torch.cuda.get_device_name() if gpu else "CPU"
    peak = peak_tflops * 1e12 if peak_tflops is not None else peak_flops(device)
    figures = stopwatch.figures[-1]
    report = {
        "device": device,
        "devices": devices,
        "shape": shape,
        "parameters": sum(parameter.numel() for parameter in module.policy.parameters()),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "tflops_per_device": flops / seconds / devices / 1e12,
        "mfu": flops / seconds / devices / peak if peak is not None else None,
        "peak_memory_gb": memory / 1e9 if gpu else None,
        "loss": figures["loss"],
        "grad_norm": figures["grad_norm"],
    }
    out.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_function_arguments(measure)
    arguments = parser.parse_args()
    measure(**arguments.as_dict())
    if dist.is_initialized():
        disconnect()
        dist.destroy_process_group()
