"""`python -m rence_lightning plan`: whether a run fits into memory, and what to change, before it starts."""

import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rence_lightning.cli.arguments import CommandParser
from rence_lightning.cli.help import print_help
from rence_lightning.cli.settings import Settings
from rence_lightning.errors import UserError

if TYPE_CHECKING:  # it imports torch
    from rence_lightning.cli.commands.memory import Memory


def plan_command(arguments: list[str]) -> None:
    """Prints the memory of a run by part; if it does not fit, what to change, and the process ends with code 1."""
    parser = CommandParser(
        "plan",
        "Say whether a run fits into memory, before it starts.\n\n"
        "It reads the configuration of `fit`, with all of its options, and of the policy only config.json: no\n"
        "weights, no data and no GPU are needed. Each figure stands beside its formula. Where the run does not fit,\n"
        "options are printed that lower what it needs: plan again with them. The exit code is 0 if it fits, 1 if not,\n"
        "and 2 for bad input.",
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
    print_help("fit", settings)
    from rence_lightning.cli.build import read_config
    from rence_lightning.cli.commands.memory import Memory, on_gpu

    config = read_config("fit", settings)
    gigabytes, origin = _device_memory(chosen.gpu_memory, on_gpu(config["trainer"]))
    memory = Memory(config, 1e9 * gigabytes)
    print("\n".join(_report(memory, origin)), "\n")
    if memory.training_fits and memory.sampling_fits:
        print(f"It fits into {memory.usable / 1e9:.1f} GB that a process may take (95%).")
        return
    which = "the engine beside the trainer" if memory.training_fits else "training"
    print(f"It does not fit into {memory.usable / 1e9:.1f} GB that a process may take (95%): {which} is too large.")
    print("More or larger GPUs or a smaller policy may do, or one or several of these options, the cheapest first:")
    print("\n".join(f"  {option}" for option in _advice(memory)))
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
    return 80.0, "that of the paper's, assumed, because this machine has no GPU; --gpu_memory sets it"


def _report(memory: "Memory", origin: str) -> Iterator[str]:
    """The run in words, the arithmetic of its batches, and the parts of a device's memory with their formulas."""
    trainer, model, data = (memory.config[section] for section in ("trainer", "model", "data"))
    per_iteration, per_update, k = data["prompts_per_iteration"], data["prompts_per_update"], data["group_size"]
    updates, iterations = per_iteration / per_update, trainer["max_iterations"]
    trained = f"{memory.shape.adapters / 1e6:,.1f} M adapters trained" if memory.lora else "all trained"
    yield (
        f"{model['policy']}: {memory.shape.parameters / 1e6:,.1f} M parameters, {trained}; {memory.world} x "
        f"{memory.device_bytes / 1e9:.1f} GB ({origin}), {'sharded' if memory.sharded else 'not sharded'}, "
        f"{trainer['precision']}"
    )
    yield (
        f"an iteration: {per_iteration:,} prompts x {k} = {per_iteration * k:,} responses; {per_iteration:,} / "
        f"{per_update} prompts = {updates:g} updates; x {iterations} iterations = {updates * iterations:,.0f} updates"
    )
    yield f"an update: at most {memory.update_tokens:,} tokens on a device, in passes of up to {memory.tokens:,}"
    yield f"the longest group: {memory.prompt:,} + {k} x {memory.response:,} = {memory.longest_group:,} tokens"
    sampling, sequences = memory.sampling()
    for title, parts in {
        f"training: a pass of {memory.tokens:,} tokens": memory.training(),
        f"sampling: {memory.engine_name}": sampling,
    }.items():
        yield f"\n{title:<39} GB"
        yield from (f"  {part.name:<32}{part.bytes / 1e9:8.2f}   {part.formula}" for part in parts)
        yield f"  {'total':<32}{sum(part.bytes for part in parts) / 1e9:8.2f}"
    if memory.engine_name not in ("VLLMEngine", "TransformersEngine"):
        yield f"  {memory.engine_name} is not known here: it is counted as if it were TransformersEngine"
    yield f"  {sequences} responses of the full length at a time, {memory.sequence:,} tokens with the prompt"


def _advice(memory: "Memory") -> Iterator[str]:
    """Options that each lower what a run needs, the cheapest first; those of the engine once training fits."""
    sharded = "--trainer.strategy FullyShardStrategy"
    if not memory.training_fits:
        if not memory.checkpointing:
            yield "--model.gradient_checkpointing true"
        if memory.tokens > memory.sequence:
            yield f"--trainer.micro_batch_tokens {max(memory.tokens // 2, memory.sequence)}"
        if memory.gpu:
            more = f"devices {2 * memory.devices}" if memory.devices < 8 else f"num_nodes {2 * memory.nodes}"
            yield from (*([] if memory.sharded else [sharded]), f"{sharded} --trainer.{more}")
        if memory.gpu and not memory.offload:
            yield f"{sharded} --trainer.strategy.cpu_offload true"
        if not memory.lora:
            yield "--model.lora.r 32 --model.dtype bfloat16"
    elif memory.vllm:
        room = (memory.usable - memory.kept_bytes) / memory.device_bytes
        if (share := math.floor(100 * room) / 100) > 0:
            yield f"--data.engine.gpu_memory_utilization {share}"
    else:
        *others, cache = memory.sampling()[0]
        room = memory.usable - sum(part.bytes for part in others)
        if (sequences := int(room / cache.bytes * memory.max_num_seqs)) > 0:
            yield f"--data.engine.max_num_seqs {sequences}"
