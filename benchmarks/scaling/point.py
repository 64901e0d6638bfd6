"""`python -m benchmarks.scaling.point JSON`: iterations of a small random model at one point, timed in parts.

A point runs in processes of its own, because the number of threads and processes is fixed when a process starts.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from benchmarks.versus_trl.ours import Clock, TimedEngine
from benchmarks.versus_trl.timing import PARTS, IterationTime, Stopwatch
from rence_lightning.distributed import disconnect
from rence_lightning.objectives import MultiLabelNCE
from rence_lightning.policy import Policy
from rence_lightning.policy.load import EMBEDDED
from rence_lightning.prompts import Problem, ProblemSource, PromptTemplate
from rence_lightning.rewards import MathReward
from rence_lightning.rollouts import Sampling
from rence_lightning.sampling import NoFilter, RolloutDataModule
from rence_lightning.training import PolicyModule, Trainer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Point:
    """An iteration of two updates, without filtering. All responses have the same length.

    Attributes:
        prompts: Number of prompts.
        group_size: Number of responses to each prompt, K.
        response_tokens: Number of tokens of each response.
        prompt_tokens: Number of tokens of each prompt.
        vocabulary: Number of tokens in the vocabulary.
        processes: Number of processes, which share the threads.
        threads: Number of threads of all processes together.
        hidden: Size of the hidden states.
        layers: Number of layers.
    """

    prompts: int = 8
    group_size: int = 8
    response_tokens: int = 64
    prompt_tokens: int = 32
    vocabulary: int = 512
    processes: int = 1
    threads: int = os.cpu_count() or 1
    hidden: int = 64
    layers: int = 2

    @property
    def config(self) -> Qwen3Config:
        """The configuration of the random model."""
        return Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=3 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=max(1, self.hidden // 16),
            num_key_value_heads=max(1, self.hidden // 32),
            head_dim=16,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            eos_token_id=2,
            pad_token_id=0,
        )


class RandomPolicy(PolicyModule):
    """A policy of random weights, with the tokenizer of the embedded policy."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__("random", MultiLabelNCE())
        self._config = config

    def configure_model(self, empty: bool = False) -> None:
        if "policy" not in self._modules:
            torch.manual_seed(0)
            tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic")
            model = Qwen3ForCausalLM(self._config)
            # Outside of the vocabulary, so that no response ends before its limit.
            model.generation_config.eos_token_id = self._config.vocab_size
            self.policy = Policy(model, tokenizer)


class DigitProblems(ProblemSource):
    """Problems of a given number of tokens, one digit each."""

    def __init__(self, tokens: int, count: int) -> None:
        self.tokens, self.count = tokens, count

    def load(self) -> list[Problem]:
        return [Problem(str(i), str(i).rjust(self.tokens, "1"), "1") for i in range(self.count)]


def run(point: Point, iterations: int) -> list[IterationTime]:
    """The times of so many iterations, after one that warms up; nothing on other ranks than the first."""
    watch = Stopwatch()
    engine = TimedEngine(watch, max_num_seqs=512)
    data = RolloutDataModule(
        [DigitProblems(point.prompt_tokens, 4 * point.prompts)],
        template=PromptTemplate("{problem}", chat=False),
        engine=engine,
        reward=MathReward(),
        filter=NoFilter(),
        sampling=Sampling(max_response_tokens=point.response_tokens),
        group_size=point.group_size,
        prompts_per_iteration=point.prompts,
        prompts_per_update=point.prompts // 2,
        max_prompt_tokens=point.prompt_tokens,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            iterations + 1,
            f"{folder}/run",
            "cpu",
            devices=point.processes,
            cpu_threads=max(1, point.threads // point.processes),
            callbacks=[Clock(watch, engine, "recompute")],
        )
        trainer.fit(RandomPolicy(point.config), data)
    return watch.times[1:] if trainer.is_global_zero else []


def minima(times: Sequence[IterationTime]) -> dict[str, float]:
    """The shortest time of each part, and of the whole: what slows a machine down only ever adds."""
    parts = {part: min(each.parts[part] for each in times) for part in PARTS}
    return {**parts, "total": min(each.total for each in times)}


def measure_apart(point: Point, iterations: int) -> dict[str, float]:
    """The minima of a point, measured in processes of its own.

    Raises:
        RuntimeError: The processes failed; the message holds the last line that they wrote.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(point)), str(iterations)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"{point}: {last}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    if times := run(Point(**json.loads(sys.argv[1])), int(sys.argv[2])):
        print(json.dumps(minima(times)))
    if dist.is_initialized():
        disconnect()
        dist.destroy_process_group()
