"""torch's memory trackers, with the peak of each phase by kind."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from rence_lightning.policy import Policy

KINDS = {
    "Parameter": "parameters",
    "Sharded Param": "parameters",
    "Buffer": "parameters",
    "Gradient": "gradients",
    "Sharded Grad": "gradients",
    "Optstate": "optimizer states",
    "OptState": "optimizer states",
    "Activation": "activations",
    "Inputs": "activations",
    "Other": "activations",
    "Temp": "temporary",
    "Unsharded Param": "gathered layers",
    "All Gather": "gathered layers",
    "Unsharded Grad": "gathered layers",
    "Reduce Scatter": "gathered layers",
}
"""The kinds of memory, by the names that torch's trackers have for them."""


class PeakByKind(MemTracker):
    """Keeps the memory by kind at the moments when that on the device is largest.

    Attributes:
        phase: Phase of the update.
        peaks: Memory by kind at the peak of each phase.
        offloaded: Kinds that are not on the device.
    """

    phase: str
    offloaded: set[str]

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.peaks: dict[str, dict[str, int]] = {}
        self._largest: dict[str, int] = {}

    def kinds_now(self) -> dict[str, int]:
        """Memory by kind at the moment."""
        kinds = dict.fromkeys(KINDS.values(), 0)
        for snapshot in self._curr_mem_snap.values():
            for kind, size in snapshot.items():
                if kind != "Total":
                    kinds[KINDS[cast(Any, kind).value]] += size
        return kinds

    def _update_peak_stats(self, peak_state: Any) -> None:
        kinds = self.kinds_now()
        on_device = sum(size for kind, size in kinds.items() if kind not in self.offloaded)
        if on_device > self._largest.get(self.phase, -1):
            self._largest[self.phase], self.peaks[self.phase] = on_device, kinds


class _Tracker(PeakByKind):
    """The tracker of a policy that is not sharded."""

    def _track_module_params_and_buffers(self, module: nn.Module, install_grad_hooks: bool = True) -> tuple[int, int]:
        # All gradients exist before the first pass. torch's hooks for later ones fail on frozen parameters.
        return super()._track_module_params_and_buffers(module, install_grad_hooks=False)


class _ShardedTracker(PeakByKind, FSDPMemTracker):
    """The tracker of a sharded policy."""


def tracker_of(policy: Policy, optimizer: Optimizer, inputs: Sequence[Tensor], offloaded: set[str]) -> PeakByKind:
    """The tracker of a policy, which knows its parameters, gradients and optimizer states.

    Args:
        policy: Policy, sharded or not.
        optimizer: Its optimizer.
        inputs: Tensors that the policy is given.
        offloaded: Kinds that are not on the device.
    """
    tracker: PeakByKind
    if isinstance(policy, FSDPModule):
        sharded = _ShardedTracker(policy, optimizer)
        sharded.track_inputs(tuple(inputs))
        tracker = sharded
    else:
        tracker = _Tracker()
        tracker.track_external(policy, optimizer, *inputs)
    tracker.offloaded = offloaded
    return tracker
