"""The packed row: one row of tokens that holds every prompt once and no padding.

    [p1 | r11 r12 .. r1K | p2 | r21 ..]

The positions of a prompt's tokens are 0 .. P-1, and those of each of its responses start at P. Embedding, linear
layers, norms and the output projection therefore compute each token once. Only attention needs to know more than the
positions: a prompt attends to itself, a response to its prompt and itself (`rence_lightning.policy.packed_attention`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

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


class Segment(NamedTuple):
    """A prompt and some of its responses, as token ids."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]

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
        pieces: list[tuple[int, int, int]] = []
        positions: list[Tensor] = []
        states: list[Tensor] = []
        place = response = 0
        for number, (prompt, lengths) in enumerate(self.shapes):
            last = torch.tensor([place + prompt - 1])
            pieces.append((prompt, number, -1))
            positions.append(torch.arange(prompt))
            place += prompt
            for length in lengths:
                pieces.append((length, number, response))
                positions.append(torch.arange(prompt, prompt + length))
                states += [last, torch.arange(place, place + length - 1)]
                place, response = place + length, response + 1
        sizes, numbers, responses = (torch.tensor(column) for column in zip(*pieces, strict=True))
        tokens = chain.from_iterable(chain(segment.prompt, *segment.responses) for segment in segments)
        self.input_ids = torch.tensor(list(tokens)).to(device)
        self.position_ids = torch.cat(positions).to(device)
        self.segment_ids = numbers.repeat_interleave(sizes).to(device)
        self.response_ids = responses.repeat_interleave(sizes).to(device)
        self.states = torch.cat(states).to(device)

    @property
    def targets(self) -> Tensor:
        """Token ids of the responses, `(response tokens,)`, in the order of `states`."""
        return self.input_ids[self.response_ids >= 0]

    @cached_property
    def blocks(self) -> list[Block]:
        """Blocks that together give the attention of each token of the row once."""
        starts = [0, *accumulate(prompt + sum(lengths) for prompt, lengths in self.shapes)]
        return [block for numbers in like_shapes(self.shapes) for block in self._blocks(numbers, starts)]

    def _blocks(self, numbers: Sequence[int], starts: Sequence[int]) -> list[Block]:
        """The blocks of some segments of like shape and equal number of responses, K."""
        device = self.input_ids.device
        prompts = torch.tensor([self.shapes[number][0] for number in numbers])
        lengths = torch.tensor([self.shapes[number][1] for number in numbers])
        first = torch.tensor([starts[number] for number in numbers])
        before = (lengths.cumsum(-1) - lengths + (first + prompts).unsqueeze(-1)).flatten()
        size, lengths = lengths.shape[1], lengths.flatten()
        of_prompts = _Spans(first, prompts)
        of_responses = _Spans(before, lengths)
        copies = _Spans(first.repeat_interleave(size), prompts.repeat_interleave(size))
        if prefers_whole_sequences(of_prompts.width, of_responses.width):
            whole = copies.followed_by(of_responses)
            response = torch.arange(whole.width) >= copies.lengths.unsqueeze(-1)
            first_of_group = (torch.arange(len(lengths)) % size == 0).unsqueeze(-1)
            return [Block(*whole.on(device), None, _where(whole.real & (response | first_of_group), device))]
        keys = torch.cat([copies.places, of_responses.places], dim=-1)
        causal = torch.ones(of_responses.width, of_responses.width, dtype=torch.bool).tril()
        seen = copies.real if not copies.real.all() else copies.real[:1]
        mask = torch.cat([each.expand(len(seen), len(causal), -1) for each in (seen.unsqueeze(1), causal)], dim=-1)
        return [
            Block(*of_prompts.on(device), None, _where(of_prompts.real, device)),
            Block(
                of_responses.places.to(device),
                keys.to(device),
                mask.unsqueeze(1).to(device),
                _where(of_responses.real, device),
            ),
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
        tokens, place, sampled = self.input_ids.tolist(), 0, []
        for prompt, lengths in self.shapes[:segments]:
            bounds = list(accumulate(lengths, initial=place + prompt))
            kept = [tokens[start:end] for start, end in list(pairwise(bounds))[:responses]]
            sampled.append(Segment(tokens[place : place + prompt], kept))
            place = bounds[-1]
        return PackedRow(sampled, self.input_ids.device)

    def padded(self) -> "PaddedRows":
        """The same responses as rows of their own, each behind a copy of its prompt and padded on the right."""
        device = self.input_ids.device
        places: list[Tensor] = []
        predicts: list[tuple[int, int]] = []
        start = 0
        for prompt, responses in self.shapes:
            of_prompt, start = torch.arange(start, start + prompt), start + prompt
            for length in responses:
                places.append(torch.cat([of_prompt, torch.arange(start, start + length)]))
                predicts.append((prompt - 1, prompt - 1 + length))
                start += length
        rows = torch.nn.utils.rnn.pad_sequence(places, batch_first=True).to(device)
        width = rows.shape[1]
        states = [torch.arange(row * width + low, row * width + high) for row, (low, high) in enumerate(predicts)]
        return PaddedRows(self.input_ids[rows], torch.cat(states).to(device))


@dataclass(frozen=True)
class PaddedRows:
    """One row for each response, padded on the right: the usual layout, for models that cannot take a packed row.

    No attention mask is needed, because attention is causal: padding on the right cannot influence a token.
    """

    input_ids: Tensor  # `(responses, length)`
    states: Tensor  # places `(response tokens,)` in the flattened rows, in the order of `PackedRow.states`


class _Spans:
    """Runs of consecutive places in a row, given their first places and lengths `(rows,)`, padded on the right by 0."""

    def __init__(self, first: Tensor, lengths: Tensor) -> None:
        self.first, self.lengths = first, lengths
        self.width = int(lengths.max())
        columns = torch.arange(self.width)
        self.real = columns < lengths.unsqueeze(-1)
        self.places = (first.unsqueeze(-1) + columns) * self.real

    def followed_by(self, other: "_Spans") -> "_Spans":
        """The runs of `self`, each directly followed by that of `other`."""
        joined = _Spans(self.first, self.lengths + other.lengths)
        own = torch.arange(joined.width)
        later = own >= self.lengths.unsqueeze(-1)
        shift = (other.first - self.first - self.lengths).unsqueeze(-1)
        joined.places = (joined.places + later * shift) * joined.real
        return joined

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The places, as queries and as keys."""
        places = self.places.to(device)
        return places, places


def _where(mask: Tensor, device: torch.device) -> Tensor:
    return mask.flatten().nonzero().squeeze(-1).to(device)


def prefers_whole_sequences(prompt: int, response: int) -> bool:
    """Whether each response attends with a copy of its prompt, causally and without a mask: where the prompt is short,
    or the mask would be large."""
    return prompt <= SHORT_PROMPT * response or response * (prompt + response) > LARGEST_MASK


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
