"""Peak memory of an update, tracked on fake devices: shapes pass through the run's own code, and no memory is used.

The policy is built of fake tensors, sharded by `FullyShardStrategy` over a fake process group, and takes one forward
and backward pass of the largest possible row, with the gradient of earlier passes and the optimizer's states in place,
then clips the gradient and takes an optimizer step. torch's memory trackers sum up the storages that are alive after
each operation.

The fake devices are CPUs in every case, because torch computes nothing for CUDA where it was built without. Two things
would differ, and are put in their place: attention (`attention_memory`), and main memory of `cpu_offload`, told apart
by kind. The loss is the sum of log-probabilities: what is computed for each response token alone, such as the
objective and the entropies of the first update, adds some 30 MB.

What no tracker sees: the CUDA context, workspaces of cuBLAS and NCCL, and the fragments of torch's caching allocator.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM

from rence_lightning.planning.attention_memory import fused_attention
from rence_lightning.planning.fake_row import FakeRow
from rence_lightning.planning.fake_strategy import CPU, precision_of, strategy_of
from rence_lightning.planning.setup import TrainingSetup
from rence_lightning.planning.tracker import PeakByKind, tracker_of
from rence_lightning.policy import PackedRow, Policy, output_projection
from rence_lightning.policy.adapters import add_adapters
from rence_lightning.policy.load import activation_checkpointing
from rence_lightning.training.precision import COMPUTE_TYPES
from rence_lightning.training.strategy import FullyShardStrategy

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DEPTHS = (4, 6)
"""Numbers of layers that are tracked in place of all layers."""

PHASES = ("forward", "backward", "step")
BETWEEN = "between updates"

_Phases = dict[str, dict[str, int]]
"""Memory by kind at the peak of each phase of an update, and between updates."""

OFFLOADED = {"parameters", "gradients", "optimizer states"}
"""The kinds that are in main memory with `cpu_offload`."""


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of an update on one device, in bytes.

    Attributes:
        peak: Largest memory on the device, as `torch.cuda.max_memory_allocated` counts it.
        kinds: Memory at that moment by kind: parameters, gradients, optimizer states, activations (kept for the
            backward pass), temporary (within it), gathered layers (of a sharded policy, or the buckets of `ddp`).
        kept: What stays on the device between updates, while the engine samples: parameters and optimizer states.
        main_memory: What a process has in main memory with `cpu_offload`.
        parameters: Number of all parameters of the policy.
        trained: Number of the parameters that are trained.
        tokens: Number of tokens of the pass.
    """

    peak: int
    kinds: dict[str, int]
    kept: int
    main_memory: int
    parameters: int
    trained: int
    tokens: int


def training_memory(setup: TrainingSetup, all_layers: bool = False) -> TrainingMemory:
    """Tracks the memory of an update.

    Where all layers of a policy have the same parameters, its memory is linear in their number, and two policies of few
    layers are tracked in its place. The tests compare this with all layers, to the byte.

    Args:
        setup: Policy and settings of the run.
        all_layers: Whether to track all layers in any case.

    Raises:
        RuntimeError: This process has a process group already, which a fake one would have to replace.
        UserError: The strategy or the adapters do not suit the policy.
    """
    policy = _policy(setup)
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    trained = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    layers = int(getattr(setup.config.get_text_config(), "num_hidden_layers", 0))
    if all_layers or layers <= max(DEPTHS) or not _has_equal_layers(policy):
        phases = _tracked(policy, setup)
    else:
        few, more = (replace(setup, config=with_layers(setup.config, depth)) for depth in DEPTHS)
        phases = _extended(_tracked(_policy(few), few), _tracked(_policy(more), more), layers)
    offloaded = OFFLOADED if setup.cpu_offload else set()
    peaks = {name: {kind: size for kind, size in phases[name].items() if kind not in offloaded} for name in PHASES}
    kinds = max(peaks.values(), key=lambda each: sum(each.values()))
    between = phases[BETWEEN]
    return TrainingMemory(
        peak=sum(kinds.values()),
        kinds=kinds,
        kept=sum(size for kind, size in between.items() if kind not in offloaded),
        main_memory=max(sum(size for kind, size in phases[name].items() if kind in offloaded) for name in PHASES),
        parameters=parameters,
        trained=trained,
        tokens=sum(segment.tokens for segment in setup.segments()),
    )


def _extended(few: "_Phases", more: "_Phases", layers: int) -> "_Phases":
    """The memory of a policy of so many layers, from that of policies of `DEPTHS`, which is linear in each phase."""

    def at(first: int, second: int) -> int:
        return first + (second - first) * (layers - DEPTHS[0]) // (DEPTHS[1] - DEPTHS[0])

    return {phase: {kind: at(size, more[phase][kind]) for kind, size in kinds.items()} for phase, kinds in few.items()}


def with_layers(config: "PretrainedConfig", layers: int) -> "PretrainedConfig":
    """A shape with fewer layers."""
    shorter = copy.deepcopy(config)
    text = shorter.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return shorter


def _has_equal_layers(policy: Policy) -> bool:
    """Whether all layers of a policy have parameters of the same shapes, and attend in the same way."""
    names = set(policy.model._no_split_modules or ())
    layers = [module for module in policy.modules() if type(module).__name__ in names]
    shapes = {tuple(tuple(parameter.shape) for parameter in layer.parameters()) for layer in layers}
    kinds = set(getattr(policy.model.config.get_text_config(), "layer_types", None) or ())
    return len(shapes) == 1 and len(kinds) <= 1


def _tracked(policy: Policy, setup: TrainingSetup) -> "_Phases":
    """The memory of an update in each of its phases."""
    mode = FakeTensorMode()
    row = FakeRow(PackedRow(setup.segments(), CPU), mode, setup.gpu)
    with strategy_of(setup) as strategy, warnings.catch_warnings(), mode:
        warnings.simplefilter("ignore")  # they concern the run, which repeats them
        _put_on_fake_device(policy)
        if strategy is not None:
            strategy.shard(policy)
        return _Update(policy, strategy, setup, row).tracked()


class _Update:
    """An update of a fake policy.

    Args:
        policy: Policy, sharded where the strategy shards it.
        strategy: Strategy that has sharded the policy, None without.
        setup: Settings of the run.
        row: The largest row.
    """

    def __init__(self, policy: Policy, strategy: FullyShardStrategy | None, setup: TrainingSetup, row: FakeRow) -> None:
        self.policy, self.strategy, self.setup, self.row = policy, strategy, setup, row
        self.optimizer = setup.new_optimizer(p for p in policy.parameters() if p.requires_grad)
        self.trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]

    def tracked(self) -> _Phases:
        """Takes the update, and returns its memory."""
        for parameter in self.trained:  # those of an earlier pass
            parameter.grad = torch.zeros_like(parameter)
        # Before the tracker starts: creates the optimizer's states, and lets the sharded tensors work out their global
        # shapes, which they do on whole fake tensors that a tracker would count.
        self._step()
        offloaded = OFFLOADED if self.setup.cpu_offload else set()
        tracker = tracker_of(self.policy, self.optimizer, self.row.tensors, offloaded)
        with tracker:
            for synchronizes in self._passes():
                self._pass(synchronizes, tracker)
                tracker.reset_mod_stats()
            tracker.phase = "step"
            self._step()
            self.optimizer.zero_grad(set_to_none=True)
            between = tracker.kinds_now()
        phases = dict(tracker.peaks)
        for kinds in phases.values():
            if self.setup.strategy == "ddp" and self.setup.world > 1:
                kinds["gathered layers"] += sum(p.numel() * p.element_size() for p in self.trained)  # DDP's buckets
            if offloaded:
                kinds["gathered layers"] += self._copies_of_shards()
            for kind, size in self._further_copies().items():
                kinds[kind] += size
        states = ("parameters", "optimizer states")
        kept = {kind: size if kind in states else 0 for kind, size in between.items()}
        for kind, size in self._further_copies().items():
            kept[kind] += size
        return {**phases, BETWEEN: kept}

    def _passes(self) -> list[bool]:
        """For each pass whether it averages gradients over processes. Where only the last pass of an update does, the
        gradient of a pass before it is there as a whole."""
        given = self.setup.strategy
        each = not isinstance(given, FullyShardStrategy) or given.arguments()["reduce_each_pass"]
        return [True] if each else [False, True]

    def _pass(self, synchronizes: bool, tracker: PeakByKind) -> None:
        control = self.strategy._backward_sync_control if self.strategy is not None else None
        with nullcontext() if control is None else control.no_backward_sync(self.policy, enabled=not synchronizes):
            attention = fused_attention(self.policy.model) if self.setup.gpu else nullcontext()
            with attention, _two_chunks_of_logits():
                tracker.phase = "forward"
                with precision_of(self.setup.precision).forward_context():
                    loss = self.policy(self.row).log_probs.sum()
                tracker.phase = "backward"
                loss.backward()

    def _step(self) -> None:
        clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()

    def _further_copies(self) -> dict[str, int]:
        """Bytes of the reference policy, sharded like the policy."""
        frozen = list(self.policy.parameters()) if self.setup.reference and self.setup.lora is None else []
        model = self.policy.model
        ends = {cast(Tensor, end.weight) for end in (model.get_input_embeddings(), model.get_output_embeddings())}
        # The root of a sharded policy, its embedding and output projection, stays gathered after a forward pass.
        gathered = sum(end.numel() for end in ends) if frozen and self.strategy else 0
        itemsize = COMPUTE_TYPES.get(self.setup.precision, getattr(torch, self.setup.dtype)).itemsize
        return {
            "parameters": sum(_local_bytes(parameter) for parameter in frozen),
            "gathered layers": gathered * itemsize,
        }

    def _copies_of_shards(self) -> int:
        """Bytes on the device of shards that are gathered, and of gradients on their way to main memory: on fake CPUs,
        main memory is the device, and nothing is copied. Two copies of the largest group of parameters."""
        from torch.distributed.fsdp import FSDPModule

        groups = [module for module in self.policy.modules() if isinstance(module, FSDPModule)]
        own: dict[int, int] = {}
        for group in groups:
            inner = {
                id(p) for other in groups if other is not group and _contains(group, other) for p in other.parameters()
            }
            own[id(group)] = sum(_local_bytes(p) for p in group.parameters() if id(p) not in inner)
        return 2 * max(own.values())


def _contains(outer: nn.Module, inner: nn.Module) -> bool:
    return any(module is inner for module in outer.modules())


def _local_bytes(parameter: Tensor) -> int:
    local = cast(Any, parameter).to_local() if hasattr(parameter, "to_local") else parameter
    return int(local.numel() * local.element_size())


@contextmanager
def _two_chunks_of_logits() -> Iterator[None]:
    """Lets the output projection compute two chunks of logits instead of hundreds: all take the same memory, one after
    the other, and tracking them would take most of the time."""
    every = output_projection._chunks
    output_projection._chunks = lambda *given: every(*given)[:2]
    try:
        yield
    finally:
        output_projection._chunks = every


# ---- building ------------------------------------------------------------------------------------------------------


def _policy(setup: TrainingSetup) -> Policy:
    """The policy as `load_policy` builds it, on the meta device and without a tokenizer."""
    options: dict[str, Any] = {"dtype": getattr(torch, setup.dtype)}
    if setup.attn_implementation is not None and not setup.gpu:
        options["attn_implementation"] = setup.attn_implementation
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(setup.config, **options)
    adapters = add_adapters(model, setup.lora, "") if setup.lora is not None else None
    if setup.gradient_checkpointing:
        activation_checkpointing(model)
    packed = None if setup.attn_implementation is None else False
    return Policy(model, cast(Any, None), packed=packed, adapters=adapters).train()


def _put_on_fake_device(policy: Policy) -> None:
    """Exchanges the tensors of a policy on the meta device by those of a fake mode, which must be entered."""
    made: dict[Tensor, Tensor] = {}
    for module in policy.modules():
        for own in cast(list[dict[str, Tensor | None]], [module._parameters, module._buffers]):
            for name, tensor in own.items():
                if tensor is not None:
                    own[name] = made[tensor] = made.get(tensor, _like(tensor))  # tied ones stay one


def _like(tensor: Tensor) -> Tensor:
    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=CPU)
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
