"""`python -m rence_lightning plan`: whether a run fits into memory, and what to change, before it starts."""

import math
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.cli.settings import Settings
from rence_lightning.errors import UserError

if TYPE_CHECKING:  # it imports torch
    from rence_lightning.training.memory import Memory, Part

PAPER_GPU = 80.0
"""Memory of the paper's GPUs in GB, which is taken where there is no GPU to ask."""

STEP = 1024
"""Number of tokens of which a suggested `micro_batch_tokens` is a multiple."""

MOST_GPUS = 64
SHARDED = {"class_path": "rence_lightning.training.FullyShardStrategy", "init_args": {}}

Changes = dict[str, Any]
"""New values of options, by `section.key`."""


def plan_command(arguments: list[str]) -> None:
    """Prints the memory of a run by part, and what to change if it does not fit.

    Raises:
        UserError: The arguments or the configuration are wrong.
        SystemExit: The run does not fit; the exit code is 1.
    """
    parser = CommandParser(
        "plan",
        "Say whether a run fits into memory, before it starts.\n\n"
        "It reads the configuration of `fit`, with all of its options, and of the policy only config.json: no\n"
        "weights, no data and no GPU are needed. Each figure stands beside its formula. Where the run does not fit,\n"
        "changes are printed with which it does. The exit code is 0 if it fits, 1 if not, and 2 for bad input.",
        [
            "plan --config rence",
            "plan --config rence --config hardware/gpu1 --model.policy Qwen/Qwen3-1.7B --gpu_memory 80",
            "plan --config own --config hardware/gpu1_lora --gpu_memory 24",
        ],
        epilogue="All other options are those of `fit`: fit --help explains them.",
    )
    parser.add_argument(
        "--gpu_memory",
        type=float,
        metavar="GB",
        help="memory of each GPU in 10^9 bytes (default: that of the GPU of this machine, else 80); for a run on CPUs, "
        "that of the machine (default: this machine's)",
    )
    chosen, of_fit = parser.parse_known_args(arguments)
    if chosen.gpu_memory is not None and not chosen.gpu_memory > 0:
        raise UserError(f"plan: --gpu_memory is {chosen.gpu_memory:g}; it must be > 0, in GB")
    settings = Settings(of_fit)
    from rence_lightning.cli.lightning_cli import read_config
    from rence_lightning.training.memory import Memory, on_gpu

    config = read_config("fit", settings)
    gigabytes, origin = _device_memory(chosen.gpu_memory, on_gpu(config["trainer"]))
    memory = Memory(config, 1e9 * gigabytes)
    print("\n".join([*_head(memory, origin), "", *_tables(memory), ""]))
    print(_verdict(memory))
    if memory.training_fits and memory.sampling_fits:
        return
    print("\n".join(_advice(memory)))
    sys.exit(1)


def _device_memory(given: float | None, gpu: bool) -> tuple[float, str]:
    """Memory of a device in GB, and where the number comes from."""
    if given is not None:
        return given, "--gpu_memory"
    if not gpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, "this machine's"
    import torch

    if torch.cuda.is_available():
        properties: Any = torch.cuda.get_device_properties(0)
        return properties.total_memory / 1e9, f"this machine's {properties.name}"
    return PAPER_GPU, "assumed, because this machine has no GPU; --gpu_memory sets it"


def _head(memory: "Memory", origin: str) -> list[str]:
    """The run in words, and the arithmetic of its batches."""
    trainer, model, data = (memory.config[section] for section in ("trainer", "model", "data"))
    per_iteration, per_update, k = data["prompts_per_iteration"], memory.prompts_per_update, memory.group_size
    updates, iterations = per_iteration / per_update, trainer["max_iterations"]
    trained = f"{memory.shape.adapters / 1e6:,.1f} M adapters trained" if memory.lora else "all trained"
    return [
        f"{model['policy']}: {memory.shape.parameters / 1e6:,.1f} M parameters, {trained}; {memory.world} x "
        f"{memory.device_bytes / 1e9:.1f} GB ({origin}), {memory.strategy}, {trainer['precision']}",
        f"an iteration: {per_iteration:,} prompts x {k} = {per_iteration * k:,} responses; {per_iteration:,} / "
        f"{per_update} prompts = {updates:g} updates; x {iterations} iterations = {updates * iterations:,.0f} updates",
        f"an update: {per_update} prompts x {k} = {per_update * k} responses, "
        f"{math.ceil(per_update / memory.world)} prompts on a device, at most {memory.update_tokens:,} tokens, "
        f"{math.ceil(memory.update_tokens / memory.tokens)} or more passes of up to {memory.tokens:,}",
        f"the longest group: {memory.prompt:,} + {k} x {memory.response:,} = {memory.longest_group:,} tokens",
    ]


def _tables(memory: "Memory") -> list[str]:
    """The parts of memory, in GB of a device, with their formulas."""
    sampling, sequences = memory.sampling()
    name = f"VLLMEngine, {memory.utilization:g} of the GPU" if memory.vllm else "TransformersEngine"
    lines = [
        *_table(f"training: a pass of {memory.tokens:,} tokens", memory.training()),
        "",
        *_table(f"sampling: {name}", sampling),
        f"  {sequences} responses of the full length at a time, {memory.sequence:,} tokens with the prompt",
    ]
    if memory.offload:
        lines += ["", *_table("main memory of each process (cpu_offload)", memory.states())]
    return lines


def _table(title: str, parts: list["Part"]) -> list[str]:
    rows = [f"  {part.name:<32}{part.bytes / 1e9:8.2f}   {part.formula}" for part in parts]
    return [f"{title:<39} GB", *rows, f"  {'total':<32}{sum(part.bytes for part in parts) / 1e9:8.2f}"]


def _figures(memory: "Memory") -> str:
    return f"{memory.training_bytes / 1e9:.1f} GB while training and {memory.sampling_bytes / 1e9:.1f} while sampling"


def _verdict(memory: "Memory") -> str:
    """One line that says whether the run fits, and where it does not."""
    usable = f"{memory.usable / 1e9:.1f} GB that a process may take (95%)"
    reasons = {
        "training is too large": not memory.training_fits,
        "the engine does not fit beside the trainer": memory.sampling_bytes > memory.usable,
        "the engine has no room for a response of the full length": memory.sampling()[1] < 1,
    }
    wrong = ", ".join(reason for reason, found in reasons.items() if found)
    return f"It {f'does not fit: {wrong}. It takes' if wrong else 'fits:'} {_figures(memory)}, of {usable}."


def _advice(memory: "Memory") -> Iterator[str]:
    """Changes with each of which the run fits, as options of the command line with the memory that it then takes."""
    fitting = [made for changes in _changes(memory) if (made := _made_to_fit(memory, changes)) is not None]
    lines = [f"  {' '.join(_options(changes))}   ({_figures(memory.changed(changes))})" for changes in fitting]
    yield (
        "It fits with any one of these changes:" if lines else "No single change makes it fit: use more or larger GPUs."
    )
    yield from dict.fromkeys(lines)  # a change may be one that the configuration already has


def _changes(memory: "Memory") -> Iterator[Changes]:
    """Changes to try, the cheapest first."""
    yield {}
    recomputed = {} if memory.config["model"]["gradient_checkpointing"] else {"model.gradient_checkpointing": True}
    if recomputed:
        yield recomputed
    if memory.gpu:
        sharded: Changes = {**recomputed, **({} if memory.sharded else {"trainer.strategy": SHARDED})}
        yield sharded
        for world in (2**power for power in range(1, MOST_GPUS.bit_length())):
            more = {**sharded, "trainer.devices": min(world, 8), "trainer.num_nodes": max(1, world // 8)}
            if world > memory.world and memory.changed(more).training_fits:
                yield more
                break
        yield {**sharded, "trainer.strategy.init_args.cpu_offload": True}
    if not memory.lora:
        yield {**recomputed, "model.lora": {"r": 32}, "model.dtype": "bfloat16"}


def _made_to_fit(memory: "Memory", changes: Changes) -> Changes | None:
    """Changes with fewer tokens in a pass and a smaller engine as far as needed; None if that is not enough."""
    memory = memory.changed(changes)
    if not memory.training_fits:
        steps = range(math.ceil(memory.sequence / STEP), memory.tokens // STEP + 1)
        key = "trainer.micro_batch_tokens"
        fitting = bisect_left(steps, True, key=lambda step: not memory.changed({key: step * STEP}).training_fits)
        if not fitting:
            return None
        tokens = {key: steps[fitting - 1] * STEP}
        memory, changes = memory.changed(tokens), {**changes, **tokens}
    for smaller in _engines(memory):
        if memory.changed(smaller).sampling_fits:
            return {**changes, **smaller}
    return None


def _engines(memory: "Memory") -> Iterator[Changes]:
    """The engine as it is, and smaller ones."""
    yield {}
    section = "data.engine.init_args"
    if not memory.vllm:
        yield from ({f"{section}.max_num_seqs": memory.max_num_seqs // 2**n} for n in range(1, 8))
        return
    # A share of two digits, rounded down.
    share = math.floor(100 * (memory.usable - memory.kept_bytes) / memory.device_bytes) / 100
    for size in (memory.tensor_parallel * 2**n for n in range(4)):
        if share > 0 and size <= min(8, memory.devices):
            parallel = {} if size == memory.tensor_parallel else {f"{section}.tensor_parallel_size": size}
            yield {f"{section}.gpu_memory_utilization": share, **parallel}


def _options(changes: Mapping[str, Any]) -> Iterator[str]:
    """Changes as options of the command line."""
    for name, value in changes.items():
        if not isinstance(value, Mapping):
            yield f"--{name} {str(value).lower() if isinstance(value, bool) else value}"
        elif "class_path" in value:
            yield f"--{name} {value['class_path']}"
            yield from _options({f"{name}.init_args.{key}": each for key, each in value["init_args"].items()})
        else:
            yield from _options({f"{name}.{key}": each for key, each in value.items()})
