"""The forward and backward pass of an update of a small random model, in three layouts."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from rence_lightning.policy import PackedRow, Policy, Segment
from rence_lightning.policy.load import EMBEDDED

if TYPE_CHECKING:
    from benchmarks.memory.point import UpdatePoint


class Update:
    """A random policy, and its gradient for responses of given lengths.

    Args:
        point: Sizes and layout.
        device: Device to run on.
    """

    def __init__(self, point: "UpdatePoint", device: torch.device) -> None:
        self.point, self.device = point, device
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=point.vocabulary,
            hidden_size=point.hidden,
            intermediate_size=3 * point.hidden,
            num_hidden_layers=point.layers,
            num_attention_heads=max(1, point.hidden // 32),
            num_key_value_heads=max(1, point.hidden // 64),
            head_dim=32,
            max_position_embeddings=65536,
            tie_word_embeddings=True,
        )
        with device:
            model = Qwen3ForCausalLM(config)
        self.policy = Policy(model, AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic"))

    def run(self, responses: list[int]) -> None:
        """Forward and backward; the gradients stay allocated, and are set to zero."""
        self.backward(responses)
        self.policy.zero_grad(set_to_none=False)

    def backward(self, responses: list[int]) -> None:
        """Adds up the gradient of log-probabilities with a random weight on each response token.

        Args:
            responses: Lengths of the responses of each group.
        """
        row = random_row(self.point.groups, self.point.prompt_tokens, responses, self.point.vocabulary, self.device)
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(self.point.groups * sum(responses), generator=generator).to(self.device)
        values = self._naive(row) if self.point.layout == "naive" else self._scored(row)
        values.backward(weights)

    def _scored(self, row: PackedRow) -> Tensor:
        log_probs: Tensor = self.policy(row, packed=self.point.layout == "packed").log_probs
        return log_probs

    def _naive(self, row: PackedRow) -> Tensor:
        """What a plain training loop does: the logits of all positions of the padded batch, prompts included."""
        rows = row.padded()
        logits = self.policy.model(input_ids=rows.input_ids, use_cache=False).logits
        log_probs = logits[:, :-1].float().log_softmax(-1)
        of_tokens = log_probs.gather(-1, rows.input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        length = rows.input_ids.shape[1]
        return of_tokens.flatten().index_select(0, rows.states - rows.states // length)


def random_row(groups: int, prompt: int, responses: list[int], vocabulary: int, device: torch.device) -> PackedRow:
    """Prompts and responses of random tokens."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        ids: list[int] = torch.randint(0, vocabulary, (count,), generator=generator).tolist()
        return ids

    return PackedRow([Segment(tokens(prompt), [tokens(n) for n in responses]) for _ in range(groups)], device)
