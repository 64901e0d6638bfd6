"""Sampling through the Hugging Face model itself: no server and no optional package; the default of the demo."""

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rence_lightning.errors import UserError
from rence_lightning.parts import Configurable
from rence_lightning.rollouts.decoding import Decoder, SharedPromptDecoder, attention_of, decoder_for
from rence_lightning.rollouts.engine import Request, SampledPolicy, SamplingStep, end_of_sequence_ids
from rence_lightning.rollouts.packed_weights import PackedWeights
from rence_lightning.rollouts.slots import Slots

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersEngine(Configurable):
    """Batched sampling with a key-value cache through the policy's own Hugging Face model.

    It reads the trainer's weights in place. Only where the policy is sharded does each process keep a whole copy,
    refreshed before each iteration, because processes sample for different lengths of time. Models with sliding
    windows, soft-capped scores or layers other than full attention are sampled with their own cache and masks, after a
    warning: it is slower, and a batch ends before the next begins. A model whose cache does not give the logits of its
    forward pass is refused.

    Args:
        max_num_seqs: Number of responses sampled at a time (prompts times group size), which bounds the memory of the
            key-value cache.
    """

    takes_turns = True
    """Declares that it samples responses of several turns by itself."""

    def __init__(self, max_num_seqs: int = 256) -> None:
        if max_num_seqs < 1:
            raise UserError(f"engine: max_num_seqs is {max_num_seqs}, it must be >= 1")
        self.max_num_seqs = max_num_seqs
        self._model: PreTrainedModel | None = None
        self._decoder: Decoder | None = None  # None: not tried yet

    def sync(self, policy: SampledPolicy) -> None:
        if any(isinstance(parameter, DTensor) for parameter in policy.model.parameters()):
            self._gather(policy)
        elif self._model is not policy.model:
            self._model, self._decoder = policy.model, None

    def check(self) -> None:
        """Raises `UserError` where the policy's model cannot be sampled: a few tokens are tried."""
        end_of_sequence_ids(self._ready()[0])

    def _ready(self) -> tuple["PreTrainedModel", Decoder]:
        """The model, and the decoder that it works with, which is tried once."""
        if self._model is None:
            raise RuntimeError("the engine has no policy yet: call sync(policy) first")
        if self._decoder is None:
            with _evaluating(list(self._model.modules())):
                self._decoder = decoder_for(self._model)
        return self._model, self._decoder

    @torch.no_grad()
    def _gather(self, policy: SampledPolicy) -> None:
        """Copies the weights of a sharded policy into a whole model of this process, one parameter at a time."""
        from transformers import AutoModelForCausalLM

        device, model = policy.compute_device, policy.model
        if self._model is None:
            with torch.device(device):
                self._model = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype).requires_grad_(False)
            self._model.generation_config = model.generation_config
        own = dict(self._model.named_parameters(remove_duplicate=False))
        for name, weight in policy.weights(device, model.dtype):
            own[name].copy_(weight)

    def generate(self, requests: Iterable[Request], cancelled: Container[int] = ()) -> Iterator[SamplingStep]:
        model, decoder = self._ready()
        modules, ends, share = list(model.modules()), end_of_sequence_ids(model), decoder is SharedPromptDecoder
        slots = Slots(decoder(model), requests, cancelled, self.max_num_seqs, ends, model.device)
        packed: PackedWeights | None = None
        # Between two steps the caller runs, and requests are the caller's code too: the model is then as it was.
        try:
            while slots.take():
                packed = packed or PackedWeights(model)
                with _evaluating(modules), attention_of(model, share), packed.used():
                    step = slots.advance()
                yield step
        finally:
            slots.close()

    def release(self) -> None:
        """Does nothing: the weights are the trainer's, and keys and values are freed when sampling ends."""


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """Forward passes without gradients, dropout and the recomputation of activations, in a model that may train."""
    training = [module for module in modules if module.training]
    try:
        for module in training:
            vars(module)["training"] = False  # at each step, and a tenth of the time of `Module.__setattr__`
        with torch.no_grad():
            yield
    finally:
        for module in training:
            vars(module)["training"] = True
