"""The packed row: one row of tokens that holds every prompt once and no padding.

    [p1 | r11 r12 .. r1K | p2 | r21 ..]

The positions of a prompt's tokens are 0 .. P-1, and those of each of its responses start at P. Embedding, linear
layers, norms and the output projection therefore compute each token once. Only attention needs to know more than the
positions: a prompt attends to itself, a response to its prompt and itself (`rence_lightning.policy.packed_attention`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

PADDING = 1.25
"""Largest factor by which padding inside attention may raise its work before groups get a block of their own."""

SHORT_PROMPT = 0.3
"""Largest length of a prompt, relative to the response, with which attention computes it again for each response."""

LARGEST_MASK = 2**21
"""Largest number of elements of a mask inside attention."""

MASK_BLOCK = 128
"""Number of queries, and of keys, of a block of FlexAttention's mask."""

MASK_ELEMENTS = 2**26
"""Largest number of pairs of tokens that are looked at at a time for FlexAttention's mask: 64 MiB for each mask."""


Replies = Sequence[tuple[int, int]]
"""First and last place of each run of tokens in a response that the policy did not choose."""


class Segment(NamedTuple):
    """A prompt and some of its responses, as token ids, with the places of the replies in each response (see
    `rence_lightning.rollouts.Rollout`; empty where no response has any)."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    replies: Sequence[Replies] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens in a packed row."""
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass(frozen=True)
class Block:
    """Queries and keys of like length, whose attention is computed together.

    Attributes:
        queries: Places `(rows, queries)` in the packed row of the tokens that attend, padded on the right by place 0.
        keys: Places `(rows, keys)` of the tokens that they attend to, padded on the right by place 0.
        mask: Mask `(rows or 1, 1, queries, keys)` of bool; None where queries and keys are the same, and attention is
            causal.
        kept: Places in the flattened queries of the tokens whose attention this block gives.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    kept: Tensor


class PackedRow:
    """Token ids in one row, and what each of them is. (No dataclass: Fabric would take one apart to convert tensors.)

    Args:
        segments: Prompts of at least one token, each with at least one response of at least one token.
        device: Device of the tensors.

    Attributes:
        input_ids: Token ids, `(tokens,)`.
        position_ids: Position of each token in its sequence of prompt and response, `(tokens,)`.
        segment_ids: Number of each token's segment, `(tokens,)`.
        response_ids: Number of each token's response, counted over the whole row, `(tokens,)`; -1 in a prompt.
        chosen: Mask of the tokens of all responses that the policy chose, `(tokens of responses,)`. Only these are
            predicted, and called response tokens; the others are replies, to which they attend.
        states: Places `(response tokens,)` of the states that predict the response tokens, response by response. The
            state that predicts the first token of a response is that of the prompt's last token, which all responses
            share.
        shapes: Number of tokens of each prompt and of each of its responses.

    Raises:
        ValueError: A prompt or a response is empty, so that no state predicts a token of it.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self.shapes = [(len(segment.prompt), tuple(map(len, segment.responses))) for segment in segments]
        if not all(prompt > 0 and responses and min(responses) > 0 for prompt, responses in self.shapes):
            raise ValueError(f"a prompt or a response is empty; lengths of prompts and responses: {self.shapes}")
        segment_ids: list[Tensor] = []
        positions: list[Tensor] = []
        response_ids: list[Tensor] = []
        states: list[Tensor] = []
        chosen: list[Tensor] = []
        number = 0
        self._replies = [segment.replies or [()] * len(segment.responses) for segment in segments]
        for segment, (prompt, responses) in enumerate(self.places):
            segment_ids.append(torch.tensor(segment).expand(len(prompt) + sum(map(len, responses))))
            positions.append(torch.arange(len(prompt)))
            response_ids.append(torch.tensor(-1).expand(len(prompt)))
            for response, replies in zip(responses, self._replies[segment], strict=True):
                positions.append(torch.arange(len(prompt), len(prompt) + len(response)))
                response_ids.append(torch.tensor(number).expand(len(response)))
                states += [prompt[-1:], response[:-1]]
                chosen.append(torch.ones(len(response), dtype=torch.bool))
                for first, last in replies:
                    chosen[-1][first : last + 1] = False
                number += 1
        tokens = chain.from_iterable(chain(segment.prompt, *segment.responses) for segment in segments)
        self.input_ids = torch.tensor(list(tokens)).to(device)
        self.position_ids = torch.cat(positions).to(device)
        self.segment_ids = torch.cat(segment_ids).to(device)
        self.response_ids = torch.cat(response_ids).to(device)
        self.chosen = torch.cat(chosen).to(device)
        self.states = torch.cat(states).to(device)[self.chosen]

    @cached_property
    def places(self) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Places of the tokens of each prompt, and of each of its responses."""
        runs, start = [], 0
        for prompt, lengths in self.shapes:
            sizes = (prompt, *lengths)
            first, *others = torch.arange(start, start + sum(sizes)).split(sizes)
            runs.append((first, tuple(others)))
            start += sum(sizes)
        return runs

    @property
    def targets(self) -> Tensor:
        """The response tokens, as ids `(response tokens,)` in the order of `states`."""
        return self.input_ids[self.response_ids >= 0][self.chosen]

    @cached_property
    def blocks(self) -> list[Block]:
        """Blocks that together give the attention of each token of the row once."""
        return [block for numbers in like_shapes(self.shapes) for block in self._blocks(numbers)]

    def _blocks(self, numbers: Sequence[int]) -> list[Block]:
        """The blocks of some segments of like shape and equal number of responses, K."""
        device, size = self.input_ids.device, len(self.places[numbers[0]][1])
        prompts = [self.places[number][0] for number in numbers]
        responses = [response for number in numbers for response in self.places[number][1]]
        copies = [prompt for prompt in prompts for _ in range(size)]
        of_prompts, real_prompts = _padded(prompts)
        of_responses, real_responses = _padded(responses)
        longest, width = of_prompts.shape[1], of_responses.shape[1]
        # With a short prompt, or where the mask would be large, each response attends with a copy of its prompt.
        if longest <= SHORT_PROMPT * width or width * (longest + width) > LARGEST_MASK:
            whole, real = _padded([torch.cat(pair) for pair in zip(copies, responses, strict=True)])
            of_copy = torch.arange(whole.shape[1]) < torch.tensor(list(map(len, copies))).unsqueeze(-1)
            first_of_group = (torch.arange(len(copies)) % size == 0).unsqueeze(-1)
            whole = whole.to(device)
            return [Block(whole, whole, None, _where(real & (~of_copy | first_of_group), device))]
        of_copies, seen = _padded(copies)
        keys = torch.cat([of_copies, of_responses], dim=-1).to(device)
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        seen = seen if not seen.all() else seen[:1]
        mask = torch.cat([each.expand(len(seen), len(causal), -1) for each in (seen.unsqueeze(1), causal)], dim=-1)
        of_prompts = of_prompts.to(device)
        return [
            Block(of_prompts, of_prompts, None, _where(real_prompts, device)),
            Block(of_responses.to(device), keys, mask.unsqueeze(1).to(device), _where(real_responses, device)),
        ]

    @cached_property
    def order(self) -> Tensor:
        """Place `(tokens,)` of each token of the row in the concatenation of what the blocks keep."""
        return torch.cat([block.queries.flatten()[block.kept] for block in self.blocks]).argsort()

    @cached_property
    def block_mask(self) -> "BlockMask":
        """The mask of the row for FlexAttention, from some rows of blocks at a time: `create_block_mask` would hold
        several masks of all pairs of tokens, 14 GB for 57,344 tokens."""
        from torch.nn.attention.flex_attention import BlockMask

        tokens, device, attends = len(self.input_ids), self.input_ids.device, self.mask_function()
        number = -(-tokens // MASK_BLOCK)
        padding = number * MASK_BLOCK - tokens
        keys = torch.arange(tokens, device=device).unsqueeze(0)
        batch = torch.zeros((), dtype=torch.long, device=device)
        seen = []
        some = max(1, MASK_ELEMENTS // (number * MASK_BLOCK**2)) * MASK_BLOCK
        for rows in torch.arange(tokens, device=device).split(some):
            mask = attends(batch, batch, rows.unsqueeze(1), keys)
            mask = torch.nn.functional.pad(mask, (0, padding, 0, -len(rows) % MASK_BLOCK))
            seen.append(mask.view(-1, MASK_BLOCK, number, MASK_BLOCK).sum((1, 3)))
        counts = torch.cat(seen)[None, None]
        whole = counts == MASK_BLOCK**2
        partial = (counts > 0) & ~whole
        order = [each.int().argsort(dim=-1, descending=True, stable=True).int() for each in (partial, whole)]
        return BlockMask.from_kv_blocks(
            partial.sum(-1).int(),
            order[0],
            whole.sum(-1).int(),
            order[1],
            BLOCK_SIZE=MASK_BLOCK,
            mask_mod=attends,
            seq_lengths=(tokens, tokens),
        )

    def mask_function(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The function of batch, head, and the places of a query and a key: whether the one attends to the other."""
        segments, responses = self.segment_ids, self.response_ids

        def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = (responses[key] == -1) | (responses[key] == responses[query])
            return (key <= query) & (segments[key] == segments[query]) & seen

        return attends

    def sample(self, segments: int, responses: int) -> "PackedRow":
        """A row of at most so many segments, and responses to each."""
        ids = self.input_ids.cpu()
        sampled = [
            Segment(ids[prompt].tolist(), [ids[place].tolist() for place in places[:responses]], replies[:responses])
            for (prompt, places), replies in zip(self.places[:segments], self._replies, strict=False)
        ]
        return PackedRow(sampled, self.input_ids.device)

    def padded(self) -> "PaddedRows":
        """The same responses as rows of their own, each behind a copy of its prompt and padded on the right."""
        device = self.input_ids.device
        sequences = [(prompt, response) for prompt, responses in self.places for response in responses]
        rows = pad_sequence([torch.cat(pair) for pair in sequences], batch_first=True)
        states = [
            row * rows.shape[1] + len(prompt) - 1 + torch.arange(len(response))
            for row, (prompt, response) in enumerate(sequences)
        ]
        return PaddedRows(self.input_ids[rows.to(device)], torch.cat(states).to(device)[self.chosen])


class PaddedRows(NamedTuple):
    """One row for each response, padded on the right: the usual layout, for models that cannot take a packed row.

    No attention mask is needed, because attention is causal: padding on the right cannot influence a token.
    """

    input_ids: Tensor  # `(responses, length)`
    states: Tensor  # places `(response tokens,)` in the flattened rows, in the order of `PackedRow.states`


def _padded(runs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Runs of places as rows, padded on the right by 0, and the mask of what is not padding."""
    rows = pad_sequence(list(runs), batch_first=True)
    return rows, torch.arange(rows.shape[1]) < torch.tensor(list(map(len, runs))).unsqueeze(-1)


def _where(mask: Tensor, device: torch.device) -> Tensor:
    return mask.flatten().nonzero().squeeze(-1).to(device)


def like_shapes(shapes: Sequence[tuple[int, tuple[int, ...]]]) -> list[list[int]]:
    """Divides segments, given the lengths of prompt and responses, into blocks in which padding costs little, and which
    have the same number of responses. Returns the numbers of the segments of each block."""

    def work(prompt: int, responses: int, longest: int) -> int:
        return prompt * prompt + responses * longest * (prompt + longest)

    blocks: list[list[int]] = []
    exact = prompts = longest = responses = 0
    for number in sorted(range(len(shapes)), key=lambda i: (len(shapes[i][1]), max(shapes[i][1]), shapes[i][0], i)):
        prompt, lengths = shapes[number]
        widest = max(prompts, prompt), len(lengths), max(longest, *lengths)
        own = work(prompt, len(lengths), max(lengths))  # responses are padded to the longest of their segment anyway
        if blocks and len(lengths) == responses:
            padded = (len(blocks[-1]) + 1) * work(*widest)
            if padded <= PADDING * (exact + own):
                blocks[-1].append(number)
                exact, prompts, longest = exact + own, widest[0], widest[2]
                continue
        blocks.append([number])
        exact, prompts, longest, responses = own, prompt, max(lengths), len(lengths)
    return blocks
