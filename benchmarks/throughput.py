"""`python -m benchmarks.throughput`: tokens per second of the rollout engines, with the same policy and prompts."""

import statistics
import time
from collections.abc import Callable
from typing import Literal

from jsonargparse import CLI
from rich.console import Console
from rich.table import Table

from rence_lightning.errors import UserError
from rence_lightning.policy import load_policy
from rence_lightning.prompts import ArithmeticProblems
from rence_lightning.rollouts import Request, RolloutEngine, Sampling, TransformersEngine, VLLMEngine

Engine = Callable[[str, int], RolloutEngine]
ENGINES: dict[str, Engine] = {
    "transformers": lambda dtype, length: TransformersEngine(max_num_seqs=256),
    "vllm": lambda dtype, length: VLLMEngine(max_model_len=length, max_num_seqs=256),
}


def throughput(
    policy: str = "embedded:arithmetic",
    dtype: Literal["float32", "bfloat16"] = "float32",
    prompts: int = 32,
    group_size: int = 8,
    response_tokens: int = 128,
    rounds: int = 5,
) -> None:
    """Times both engines in alternation, because the speed of the machine may vary over time.

    Responses end only at the padding token, which is hardly ever sampled, so that nearly all have `response_tokens`.

    Args:
        policy: Policy to sample from, given as in `model.policy`.
        dtype: Data type of the policy and of both engines.
        prompts: Number of prompts in a batch.
        group_size: Number of responses to each prompt.
        response_tokens: Largest number of tokens of a response.
        rounds: Number of rounds, in each of which both engines sample once; the first is a warm-up and is not counted.
    """
    if rounds < 2:
        raise UserError(f"--rounds: {rounds}; it must be >= 2, because the first round is not counted")
    loaded = load_policy(policy, dtype)
    loaded.model.generation_config.eos_token_id = loaded.tokenizer.pad_token_id
    texts = [problem.problem for problem in ArithmeticProblems("train").load()[:prompts]]
    tokens = [loaded.tokenizer(text).input_ids for text in texts]
    length = max(map(len, tokens)) + response_tokens
    engines = {name: build(dtype, length) for name, build in ENGINES.items()}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    syncs: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.sync(loaded)
            synced = time.perf_counter()
            count = sample(engine, tokens, group_size, response_tokens)
            rates[name].append(count / (time.perf_counter() - synced))
            syncs[name].append(synced - start)
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    show(f"{parameters:,} parameters, {dtype}, {prompts} x {group_size} x {response_tokens} tokens", rates, syncs)


def sample(engine: RolloutEngine, prompts: list[list[int]], group_size: int, response_tokens: int) -> int:
    """Samples once; returns the number of tokens."""
    sampling = Sampling(max_response_tokens=response_tokens)
    requests = (Request(prompt, group_size, sampling, seed) for seed, prompt in enumerate(prompts))
    return sum(step.tokens for step in engine.generate(requests))


def show(title: str, rates: dict[str, list[float]], syncs: dict[str, list[float]]) -> None:
    """Prints the results of the rounds after the first."""
    table = Table(title=title, title_justify="left")
    for column in ("engine", "tokens/s, median", "lowest", "highest", "seconds to load weights"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name, (_, *counted) in rates.items():
        figures = (statistics.median(counted), min(counted), max(counted))
        table.add_row(name, *(f"{rate:,.0f}" for rate in figures), f"{statistics.median(syncs[name][1:]):.3f}")
    Console().print(table)
    ratios = [vllm / other for vllm, other in zip(rates["vllm"][1:], rates["transformers"][1:], strict=True)]
    middle = statistics.geometric_mean(ratios)
    print(f"vllm / transformers: {middle:.2f} (rounds from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    CLI(throughput, as_positional=False)
