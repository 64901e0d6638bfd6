"""The policy: a Hugging Face causal language model whose forward pass is the log-probabilities of response tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from rence_lightning.errors import UserError, one_line
from rence_lightning.policy.adapters import Adapters
from rence_lightning.policy.attention import implementation
from rence_lightning.policy.output_projection import LogitTransform, TokenScores, token_scores
from rence_lightning.policy.packed_attention import enable
from rence_lightning.policy.packed_row import PackedRow, Segment
from rence_lightning.policy.weights import gathered, only_trained, plain_weights, weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


EXACT, ROUNDED = 1e-4, 0.1
"""Largest mean difference of a log-probability between two ways to compute it, in float32 and in half precision.
Rounding makes 1e-6 and 1e-2."""

LARGE_LOGIT = 30.0
"""Largest logit, apart from soft-capping, in the comparison with the model's own."""


class Policy(nn.Module):
    """A causal language model and its tokenizer.

    The transformer runs once over a packed row, and the output projection over the states that predict response tokens.

    Args:
        model: Causal language model of `transformers`.
        tokenizer: Its tokenizer.
        packed: Whether packed rows are computed as they are, with each prompt once; null where the model's attention
            allows it. Otherwise each response becomes a padded row of its own, in the model's own attention.
        adapters: Adapters that were added to the model; null where all of its weights are trained.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        packed: bool | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.adapters = adapters
        self.logit_transform = LogitTransform.of(model.config)
        self._frozen_digest: str | None = None
        self.packed = enable(model) if packed is None else packed

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.model.modules():
            module.training &= not hasattr(module, "router_jitter_noise")  # Phi-3.5-MoE's draws experts in training
        return self

    @property
    def context_length(self) -> int | None:
        """Largest number of tokens of prompt and response together; None if the model's config does not name it."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def body(self) -> nn.Module:
        """The model without its output projection."""
        base = self.model.base_model
        return base if base is not self.model else getattr(self.model, "model", base)  # Llama 4's prefix is another

    @property
    def compute_device(self) -> torch.device:
        """Device of the forward passes. Offloaded parameters are in main memory, but buffers never are."""
        return next(self.model.buffers(), next(self.model.parameters())).device

    @torch.no_grad()
    def weights(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Yields the weights whole and one at a time, on a device and in a data type, as a rollout engine takes them.

        They have the names of the plain model, and adapters are merged into them, in float32. On a CPU, tied weights
        come under both of their names, because an engine may hold a repacked copy under each; on another device under
        the first, because gathering a large output projection twice takes time. Where the policy is sharded, this is a
        collective: every rank must take all of them.
        """
        parameters = dict(self.model.named_parameters(remove_duplicate=device.type != "cpu"))

        def read(name: str, exactly: bool) -> Tensor:
            parameter = parameters[name]
            return gathered(parameter, device, parameter.dtype if exactly else dtype)

        for name, weight in plain_weights(self.model, parameters, read):
            yield name, weight.to(dtype)

    def trained_part(self) -> nn.Module:
        """The policy, or a module with its adapters alone, which are the policy's own: what a checkpoint holds."""
        return self if self.adapters is None else only_trained(self)

    def frozen_digest(self) -> str:
        """The digest of the weights below the adapters, computed once. Where the policy is sharded, the first call is a
        collective: all ranks must make it."""
        if self._frozen_digest is None:
            self._frozen_digest = weights_digest(self, frozen=True)
        return self._frozen_digest

    def save_config(self, folder: Path) -> None:
        """Writes a Hugging Face folder without the weights: the configurations and the tokenizer."""
        self.model.config.save_pretrained(folder)
        if self.model.can_generate() and self.model.generation_config is not None:
            self.model.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def forward(
        self, row: PackedRow, temperature: float = 1.0, entropy: bool = False, packed: bool | None = None
    ) -> TokenScores:
        """Log-probabilities of the response tokens of a row.

        Args:
            row: Prompts and responses.
            temperature: Divisor of the logits, so that the log-probabilities are those of the sampled distribution.
            entropy: Whether to return the entropy at each response token as well.
            packed: Whether to compute the row as it is (default: `self.packed`).
        """
        if self.packed if packed is None else packed:
            hidden = self.body(
                input_ids=row.input_ids.unsqueeze(0),
                position_ids=row.position_ids.unsqueeze(0),
                use_cache=False,
                packed_row=row,  # the layers pass it on to `packed_attention`
            ).last_hidden_state[0]
            states = hidden.index_select(0, row.states)
        else:
            rows = row.padded()
            hidden = self.body(input_ids=rows.input_ids, use_cache=False).last_hidden_state
            states = hidden.flatten(0, 1).index_select(0, rows.states)
        head, transform = self.model.get_output_embeddings(), self.logit_transform.at(temperature)
        return token_scores(head, states, row.targets, transform, entropy)

    @torch.no_grad()
    def check_model(self) -> None:
        """Compares a few log-probabilities with the model's own logits, from states so large that scaling and
        soft-capping show. Attention is eager, because another may need a GPU.

        Raises:
            UserError: The model has no output projection, two passes in training mode differ, packed and padded rows
                do, or the model makes something else of its last hidden states than `logit_transform` of a linear
                projection.
        """
        row, head = PackedRow([Segment([1], [range(2, 9)])], self.model.device), self.model.get_output_embeddings()
        float32, name = self.model.dtype == torch.float32, type(self.model).__name__
        if head is None or self.body is self.model:
            raise UserError(f"policy: {name} is no transformer with an output projection on top; choose another model")

        def enlarge(module: nn.Module, inputs: object, output: Any) -> None:
            states = output.last_hidden_state
            largest = nn.functional.linear(states, head.weight, head.bias).abs().max() * self.logit_transform.scale
            output.last_hidden_state = states * (LARGE_LOGIT / largest).to(states.dtype)

        enlarged = self.body.register_forward_hook(enlarge)
        training = self.model.training
        try:
            with implementation(self.model, "eager"):
                self.train()
                ours, again = (self(row, packed=False).log_probs for _ in range(2))
                self.eval()
                logits = self.model(input_ids=row.input_ids.unsqueeze(0), use_cache=False).logits[0, :-1].float()
        except Exception as error:  # a model's code may fail in any way
            raise UserError(
                f"policy: the forward pass of {name} raises {type(error).__name__}: {one_line(error)}; correct its "
                "config.json, or choose another model"
            ) from error
        finally:
            enlarged.remove()
            self.train(training)
        _check_finite(self, ours)
        if not torch.equal(ours, again):
            raise UserError(
                f"policy: two forward passes of {name} in training mode differ by {(ours - again).abs().max():.1e} a "
                "token, so that pi_theta / pi_old would compare random networks; set its noise to 0 in config.json"
            )
        theirs = logits.log_softmax(-1).gather(-1, row.targets.unsqueeze(-1)).squeeze(-1)
        limit = 1e-3 if float32 else 1.0  # bfloat16 rounds a logit of 30 by 0.06
        if not torch.allclose(ours, theirs, rtol=0, atol=limit):
            raise UserError(
                f"policy: {name} makes its logits from its last hidden states in a way that is not supported "
                f"(log-probabilities differ by {(ours - theirs).abs().max():.1e}); choose another model"
            )
        if self.packed:
            compare_paths(self, PackedRow([Segment([1, 2], [range(3, 9), [5, 6]])], self.model.device))


def _check_finite(policy: Policy, log_probs: Tensor) -> None:
    if not log_probs.isfinite().all():
        raise UserError(
            f"policy: {type(policy.model).__name__} gives log-probabilities that are not finite, as where float16 "
            "overflows; set trainer.precision to bf16-mixed, or model.dtype to bfloat16"
        )


@torch.no_grad()
def compare_paths(policy: Policy, row: PackedRow) -> None:
    """Raises `UserError` if the log-probabilities of a few responses of a row, computed as they are and in padded rows,
    differ. Where the policy is sharded, this is a collective: all ranks must call it."""
    device = row.input_ids.device.type
    half = torch.is_autocast_enabled(device) or policy.model.dtype in (torch.bfloat16, torch.float16)
    # In float32, CUDA has no fast kernel for queries that share keys: padded rows take the square of their length.
    few = 1 if device == "cuda" and not half else 2
    sample = row.sample(few, few)
    packed, padded = (policy(sample, packed=each).log_probs for each in (True, False))
    _check_finite(policy, padded)
    difference, limit = float((packed - padded).abs().mean()), ROUNDED if half else EXACT
    if not difference <= limit:
        raise UserError(
            f"model: packed rows give log-probabilities that differ from those of padded rows by {difference:.1e} per "
            f"token (limit {limit:.0e}): {type(policy.model).__name__} has another attention than the full causal one; "
            f"set model.attn_implementation to {'sdpa' if policy.model._supports_sdpa else 'eager'}, which pads"
        )
