"""A plan as text."""

from rence_lightning.planning.plan import USABLE, Plan
from rence_lightning.planning.setup import TrainingSetup
from rence_lightning.training.strategy import FullyShardStrategy

WIDTH = 58


def table(plan: Plan, policy: str, origin: str) -> str:
    """What is in the memory of a device while the policy trains, and while the engine samples.

    Args:
        plan: The run.
        policy: Name of the policy.
        origin: Where the memory of the device comes from.
    """
    training, sampling, setup = plan.train, plan.sample, plan.training
    trained = "all trained" if setup.lora is None else f"{training.trained / 1e6:.1f} million trained"
    device = "GPU" if setup.gpu else "process"
    lines = [
        f"{policy}: {training.parameters / 1e6:,.1f} million parameters, {trained}; {_devices(setup)}",
        f"{plan.device_bytes / 1e9:.1f} GB {'a GPU' if setup.gpu else 'of main memory'} ({origin})",
        "",
        f"{f'training: a pass of {training.tokens:,} tokens':<{WIDTH}}GB a {device}",
    ]
    for kind, size in training.kinds.items():
        if size:
            lines.append(_row(kind, size))
    if sampling.while_training:
        lines.append(
            _row("engine, which does not sleep" if plan.engine.vllm else "engine's weights", sampling.while_training)
        )
    lines += [_row("peak", training.peak + sampling.while_training), ""]
    name = (
        f"VLLMEngine, {plan.engine.gpu_memory_utilization:g} of the GPU" if plan.engine.vllm else "TransformersEngine"
    )
    lines += [f"sampling: {name}", _row("parameters and optimizer states of the trainer", sampling.kept)]
    if sampling.weights:
        lines.append(_row(f"weights, {plan.engine.dtype}", sampling.weights))
    if sampling.buffers:
        lines.append(_row("activations and logits", sampling.buffers))
    length = setup.prompt_tokens + setup.response_tokens
    lines += [
        _row(f"keys and values of {sampling.cache_tokens:,} tokens", sampling.cache),
        _row("total", sampling.total),
        f"  {sampling.sequences} responses of the full length, {length:,} tokens with the prompt, at a time",
    ]
    if training.main_memory:
        lines += ["", _row("main memory of each process (cpu_offload)", training.main_memory)]
    return "\n".join(lines) + "\n"


def verdict(plan: Plan) -> str:
    """One line that says whether the run fits, and where it does not."""
    limit = f"{plan.usable / 1e9:.1f} GB, {USABLE:.0%} of {plan.device_bytes / 1e9:.1f}"
    figures = f"{plan.training_bytes / 1e9:.1f} GB while training and {plan.sampling_bytes / 1e9:.1f} while sampling"
    if plan.fits:
        return f"It fits: {figures}, of {limit}."
    reasons = []
    if not plan.training_fits:
        reasons.append("training is too large")
    if plan.sampling_bytes > plan.usable:
        reasons.append("the engine does not fit beside the trainer")
    if plan.sample.sequences < 1:
        reasons.append("the engine has no room for a response of the full length")
    return f"It does not fit: {' and '.join(reasons)}. {figures}, of {limit}."


def _row(name: str, size: int) -> str:
    return f"  {name:<{WIDTH - 2}}{size / 1e9:8.2f}"


def _devices(setup: TrainingSetup) -> str:
    kind = "GPU" if setup.gpu else "process"
    number = f"{setup.world} {kind}{'es' if kind == 'process' and setup.world > 1 else 's' if setup.world > 1 else ''}"
    nodes = f" on {setup.num_nodes} machines" if setup.num_nodes > 1 else ""
    name = "FullyShardStrategy" if isinstance(setup.strategy, FullyShardStrategy) else setup.strategy
    checkpointing = "with" if setup.gradient_checkpointing else "without"
    offload = ", cpu_offload" if setup.cpu_offload else ""
    return f"{number}{nodes}, {name}{offload}, {setup.precision}, {checkpointing} gradient checkpointing"
