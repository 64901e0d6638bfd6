"""What to change in a run that does not fit; each change is computed before it is suggested."""

import math
from collections.abc import Iterator
from dataclasses import replace

from rence_lightning.planning.plan import Plan
from rence_lightning.policy import LoRA
from rence_lightning.training.strategy import FullyShardStrategy

STEP = 1024
"""Number of tokens to a multiple of which `micro_batch_tokens` is rounded down."""

MOST_GPUS = 64
SHARD = "--trainer.strategy rence_lightning.training.FullyShardStrategy"


def advice(plan: Plan) -> Iterator[str]:
    """Changes with each of which the run fits, as options of the command line with the memory that it then takes."""
    for options, changed in _changes(plan):
        if (fitting := _made_to_fit(changed)) is not None:
            given = [*options, *_differences(changed, fitting)]
            yield f"{' '.join(given)}   ({_figures(fitting)})"


def largest_pass(plan: Plan) -> Plan | None:
    """The plan with the largest `micro_batch_tokens` that fits, in steps of 1,024; None if not even a sequence fits.

    The peak is nearly linear in the tokens of a pass, so that the line through two of them gives the third, which is
    computed as well.
    """
    sequence = plan.training.prompt_tokens + plan.training.response_tokens
    shortest = replace(plan, training=replace(plan.training, micro_batch_tokens=sequence))
    if plan.training_fits:
        return plan
    if not shortest.training_fits:
        return None
    best, low, high = shortest, shortest.train, plan.train
    if high.tokens <= low.tokens:
        return None
    slope = (high.peak - low.peak) / (high.tokens - low.tokens)
    room = plan.usable - shortest.training_bytes
    tokens = _down(low.tokens + room / slope)
    for _ in range(3):
        if tokens <= sequence:
            break
        tried = replace(plan, training=replace(plan.training, micro_batch_tokens=tokens))
        if tried.training_fits:
            return tried
        tokens -= max(STEP, _down((tried.training_bytes - plan.usable) / slope))
    return best


def _down(tokens: float) -> int:
    return int(tokens // STEP) * STEP


def _changes(plan: Plan) -> Iterator[tuple[list[str], Plan]]:
    """Changes to try, the cheapest first, each as its options and the plan with them."""
    setup = plan.training
    yield [], plan
    if not setup.gradient_checkpointing:
        yield (
            ["--model.gradient_checkpointing true"],
            replace(plan, training=replace(setup, gradient_checkpointing=True)),
        )
    setup = replace(setup, gradient_checkpointing=True)
    checkpointing = [] if plan.training.gradient_checkpointing else ["--model.gradient_checkpointing true"]
    sharded = isinstance(setup.strategy, FullyShardStrategy)
    shard = [] if sharded else [SHARD]
    strategy = setup.strategy if isinstance(setup.strategy, FullyShardStrategy) else FullyShardStrategy()
    setup = replace(setup, strategy=strategy)
    if not sharded:
        yield [*shard, *checkpointing], replace(plan, training=setup)
    if plan.training.gpu:
        yield from _more_gpus(replace(plan, training=setup), [*shard, *checkpointing])
        offload = FullyShardStrategy(**{**strategy.arguments(), "cpu_offload": True})
        if not setup.cpu_offload:
            option = "--trainer.strategy.cpu_offload true"
            yield [*shard, option, *checkpointing], replace(plan, training=replace(setup, strategy=offload))
    if setup.lora is None:
        lora = replace(setup, lora=LoRA(), dtype="bfloat16", strategy=plan.training.strategy)
        options = ["--model.lora.r 32", "--model.dtype bfloat16", *checkpointing]
        yield options, replace(plan, training=lora)


def _more_gpus(plan: Plan, options: list[str]) -> Iterator[tuple[list[str], Plan]]:
    """The smallest number of GPUs on which the update fits as it is."""
    setup = plan.training
    strategy = FullyShardStrategy(**{**setup.strategy.arguments(), "shard_size": None})  # type: ignore[union-attr]
    world = 2 ** math.floor(math.log2(setup.world) + 1)
    while world <= MOST_GPUS:
        devices, nodes = (world, 1) if world <= 8 else (8, world // 8)
        more = replace(plan, training=replace(setup, devices=devices, num_nodes=nodes, strategy=strategy))
        if more.training_fits:
            number = [f"--trainer.devices {devices}", *([f"--trainer.num_nodes {nodes}"] if nodes > 1 else [])]
            whole = [] if setup.strategy.arguments()["shard_size"] is None else ["--trainer.strategy.shard_size null"]  # type: ignore[union-attr]
            yield [*number, *whole, *options], more
            return
        world *= 2


def _made_to_fit(plan: Plan) -> Plan | None:
    """The plan with fewer tokens and a smaller engine, as far as needed; None if that is not enough."""
    fitting = largest_pass(plan)
    if fitting is None or fitting.fits:
        return fitting
    engine = fitting.engine
    if not engine.vllm:
        return _fewer_sequences(fitting)
    # A hundredth of room, because the share is rounded down to two digits.
    share = math.floor(100 * (fitting.usable - fitting.sample.kept) / fitting.device_bytes) / 100
    size = engine.tensor_parallel_size
    while size <= min(8, fitting.training.devices):
        for use in dict.fromkeys((min(engine.gpu_memory_utilization, share), share)):
            if 0 < use < 1:
                tried = replace(fitting, engine=replace(engine, gpu_memory_utilization=use, tensor_parallel_size=size))
                if tried.fits:
                    return tried
        size *= 2
    return None


def _fewer_sequences(plan: Plan) -> Plan | None:
    number = plan.engine.max_num_seqs // 2
    while number:
        tried = replace(plan, engine=replace(plan.engine, max_num_seqs=number))
        if tried.fits:
            return tried
        number //= 2
    return None


def _differences(before: Plan, after: Plan) -> list[str]:
    """The options by which a plan was made to fit."""
    tokens, engine = after.training.micro_batch_tokens, after.engine
    given = []
    if tokens != before.training.micro_batch_tokens:
        given.append(f"--trainer.micro_batch_tokens {tokens}")
    for name in ("gpu_memory_utilization", "tensor_parallel_size", "max_num_seqs"):
        if getattr(engine, name) != getattr(before.engine, name):
            given.append(f"--data.engine.{name} {getattr(engine, name):g}")
    return given


def _figures(plan: Plan) -> str:
    return f"{plan.training_bytes / 1e9:.1f} GB while training, {plan.sampling_bytes / 1e9:.1f} while sampling"
