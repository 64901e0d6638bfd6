"""The stream of responses: which requests are taken, which rows are sampled, and which have ended.

Each response has a row. Rows that have ended stay until they are a quarter of all; then the rest moves together, and
requests are taken for the room. A row whose turn has ended waits for the reply, whose tokens it then reads, one at each
step, in place of those that it would draw.
"""

from array import array
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from rence_lightning.rollouts.decoding import GeneralDecoder, SharedPromptDecoder
from rence_lightning.rollouts.draw import sample, uniforms
from rence_lightning.rollouts.engine import FinishedGroup, FinishReason, Request, Rollout, Sampling, SamplingStep
from rence_lightning.rollouts.intake import Intake

CROWDED = 4
"""Rows are rearranged when one in this many has ended: more often costs copies, more seldom idle rows."""

GRACE_SECONDS = 0.005
"""Time without a reply after which rows are sampled while others wait: a fast reply saves its row from a step."""

POLL_SECONDS = 0.01
"""Longest wait where no row can be sampled, before the caller can work."""


@dataclass(eq=False)
class _Group:
    """A request that was taken, and its responses so far."""

    index: int
    request: Request
    rollouts: dict[int, Rollout] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return len(self.rollouts) == self.request.group_size


@dataclass
class _Row:
    """A response that is being sampled."""

    group: _Group
    number: int  # in the group
    start: int  # the decoder's column of its first token
    alive: bool = True
    reply: "Future[Sequence[int] | None] | None" = None  # for which it waits
    unread: list[int] = field(default_factory=list)  # tokens of a reply, the next one last
    replies: list[tuple[int, int]] = field(default_factory=list)  # first and last place of each

    @property
    def limit(self) -> int:
        return self.group.request.sampling.max_response_tokens


class Slots:
    """Rows for `max_num_seqs` responses at a time (a single request may have more), and the requests that fill them."""

    def __init__(
        self,
        decoder: SharedPromptDecoder | GeneralDecoder,
        requests: Iterable[Request | None],
        cancelled: Container[int],
        max_num_seqs: int,
        end_ids: list[int],
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._intake = Intake(requests, cancelled)
        self._cancelled = cancelled
        self._max_num_seqs = max_num_seqs
        self._end_ids = frozenset(end_ids)
        self._pauses = torch.empty(0, dtype=torch.long, device=device)  # these, and where turns may end
        self._device = device
        self._arrivals: list[_Group] = []  # taken, not in rows yet
        self._groups: list[_Group] = []  # those with rows
        self._rows: list[_Row] = []
        self._talking: dict[int, _Row] = {}  # those whose turns are replied to, by number
        self._live = 0  # number of rows that are alive
        self._column = 0  # of the decoder's next step
        self._counts = torch.empty(0, dtype=torch.long, device=device)  # of each row's tokens
        self._moves = torch.empty(0, dtype=torch.long, device=device)  # 1 where a row's next token is written, else 0
        self._tokens = torch.empty(0, 0, dtype=torch.int32, device=device)
        self._log_probs = torch.empty(0, 0, device=device)
        self._uniforms = torch.empty(0, 0, dtype=torch.float64, device=device)
        self._limits = torch.empty(0, dtype=torch.long, device=device)
        self._samplings: list[tuple[Sampling, slice]] = []
        self._finished: list[FinishedGroup] = []  # since the last step, as the two counts
        self._responses_ended = self._tokens_drawn = 0

    def take(self) -> bool:
        """Ends what was cancelled, and takes requests if it is time to. Returns False when nothing is left to do."""
        ended = [group for group in self._groups if group.index in self._cancelled]
        for number, row in enumerate(self._rows) if ended else []:
            if row.alive and row.group in ended:
                self._stop(number)
        self._groups = [group for group in self._groups if not group.finished and group not in ended]
        if self._crowded and (self._decoder.accepts_more or self._live == 0):
            taken = self._intake.take(self._max_num_seqs - self._live, idle=self._live == 0)
            self._arrivals += [_Group(number, request) for number, request in taken]
        return self._live > 0 or bool(self._arrivals)

    def close(self) -> None:
        """Gives up the replies that rows wait for."""
        for row in self._talking.values():
            if row.reply is not None:
                row.reply.cancel()

    @property
    def _crowded(self) -> bool:
        return CROWDED * (len(self._rows) - self._live) >= len(self._rows)

    def advance(self) -> SamplingStep:
        """Samples a token of each row that waits for no reply, and returns what has happened since the last call."""
        self._hear([number for number, row in self._talking.items() if row.reply is not None and row.reply.done()])
        if self._arrivals or (self._crowded and self._live):
            self._rearrange()
        waiting = {number: row.reply for number, row in self._talking.items() if row.reply is not None}
        if self._live > len(waiting) and (not waiting or self._decoder.accepts_more):
            last = self._tokens.gather(1, (self._counts - 1).unsqueeze(1)).squeeze(1)
            logits = self._decoder.step(last.long(), list(waiting))
            self._column += 1
            self._draw(logits, self._samplings, 0, self._live - len(waiting))
        elif waiting:
            wait(waiting.values(), POLL_SECONDS, FIRST_COMPLETED)
        step = SamplingStep(self._responses_ended, self._tokens_drawn, self._finished)
        self._responses_ended, self._tokens_drawn, self._finished = 0, 0, []
        return step

    def _rearrange(self) -> None:
        """Keeps the rows that are alive, gives rows to the groups that arrived, and samples their first tokens."""
        kept = [number for number, row in enumerate(self._rows) if row.alive]
        drop = min([self._rows[number].start for number in kept], default=self._column)
        arrivals, self._arrivals = self._arrivals, []
        self._groups += arrivals
        counts = [group.request.group_size for group in arrivals]
        logits = self._decoder.arrange(kept, drop, [group.request.prompt for group in arrivals], counts)
        self._rows = [self._rows[number] for number in kept]
        self._column -= drop
        for row in self._rows:
            row.start -= drop
        for group in arrivals:
            self._rows += [_Row(group, number, self._column) for number in range(group.request.group_size)]
        self._move(torch.tensor(kept, dtype=torch.long, device=self._device), arrivals)
        self._samplings = _runs(self._rows)
        if arrivals:
            self._live += sum(counts)
            logits = logits.repeat_interleave(torch.tensor(counts, device=self._device), dim=0)
            self._draw(logits, _runs(self._rows[len(kept) :]), len(kept), sum(counts))

    def _move(self, kept: Tensor, arrivals: list[_Group]) -> None:
        """Moves what was written of the kept rows to new tensors, with room for the new rows' tokens."""
        self._limits = torch.tensor([row.limit for row in self._rows], device=self._device)
        width = int(max(row.limit for row in self._rows)) + 1  # a row that has ended writes behind its end

        def moved(old: Tensor) -> Tensor:
            new = old.new_zeros(len(self._rows), *old.shape[1:])
            new[: len(kept)] = old[kept]
            return new

        def widened(old: Tensor) -> Tensor:
            return moved(torch.nn.functional.pad(old, (0, width - old.shape[1])))

        self._tokens, self._log_probs, self._uniforms = map(widened, (self._tokens, self._log_probs, self._uniforms))
        self._counts, self._moves = moved(self._counts), moved(self._moves)
        self._moves[len(kept) :] = 1
        first = len(kept)
        for request in (group.request for group in arrivals):
            numbers = uniforms(request.seed, request.group_size, request.sampling.max_response_tokens)
            last = first + request.group_size
            self._uniforms[first:last, : numbers.shape[1]] = numbers.to(self._device)
            first = last
        self._talking = {n: row for n, row in enumerate(self._rows) if row.group.request.replies is not None}
        ends = self._end_ids.union(*(row.group.request.stop_ids for row in self._rows))
        self._pauses = torch.tensor(sorted(ends), device=self._device)

    def _draw(self, logits: Tensor, samplings: list[tuple[Sampling, slice]], first: int, moving: int) -> None:
        """Samples a token of each row from `first` on, or reads the next one of a reply; ends those that end."""
        counts = self._counts[first:].unsqueeze(1)
        uniform = self._uniforms[first:].gather(1, counts).squeeze(1)
        drawn = [sample(logits[rows], uniform[rows], sampling) for sampling, rows in samplings]
        tokens, log_probs = (torch.cat(each) for each in zip(*drawn, strict=True))
        read = {number: row.unread.pop() for number, row in self._talking.items() if number >= first and row.unread}
        if read:
            tokens[[number - first for number in read]] = torch.tensor(list(read.values()), device=self._device)
        self._tokens_drawn += moving - len(read)
        self._tokens[first:].scatter_(1, counts, tokens.int().unsqueeze(1))
        self._log_probs[first:].scatter_(1, counts, log_probs.unsqueeze(1))
        moves = self._moves[first:]
        self._counts[first:] += moves
        ended = (torch.isin(tokens, self._pauses) | (self._counts[first:] == self._limits[first:])) & (moves > 0)
        numbers = [first + number for number in ended.nonzero().squeeze(-1).tolist()]
        if numbers := [number for number in numbers if number not in read]:
            self._pause(numbers)

    def _pause(self, numbers: list[int]) -> None:
        """Ends the rows that have ended, and asks for replies to the others."""
        tokens, counts = self._tokens[numbers].cpu().numpy(), self._counts[numbers].tolist()
        asked: dict[int, Future[Sequence[int] | None]] = {}
        for number, written, count in zip(numbers, tokens, counts, strict=True):
            row, last = self._rows[number], int(written[count - 1])
            request = row.group.request
            stops = last in self._end_ids or (last in request.stop_ids and count < row.limit)
            if stops and request.replies is not None and count < row.limit:
                row.reply = asked[number] = request.replies(row.number, array("i", written[:count].tobytes()))
                self._moves[number] = 0
            elif stops or count == row.limit:
                self._end(number, "stop" if stops else "length")
        came, left = set(asked.values()), set(asked.values())
        while came and left:
            came, left = wait(left, GRACE_SECONDS, FIRST_COMPLETED)
        self._hear([number for number, reply in asked.items() if reply.done()])

    def _hear(self, numbers: list[int]) -> None:
        """Takes the replies that these rows have got."""
        for number in numbers:
            row = self._rows[number]
            assert row.reply is not None
            reply, row.reply = row.reply.result(), None
            count = int(self._counts[number])
            if reply is None or count + len(reply) >= row.limit:  # no room for a token after the reply
                self._end(number, "stop" if reply is None else "length")
                continue
            self._moves[number] = 1
            if reply:
                row.replies.append((count, count + len(reply) - 1))
                row.unread = list(reversed(reply))

    def _end(self, number: int, reason: FinishReason) -> None:
        """Takes the response of a row that has ended out of the tensors."""
        row, count = self._rows[number], int(self._counts[number])
        tokens, log_probs = (each[number, :count].cpu().numpy() for each in (self._tokens, self._log_probs))
        written = [place for first, last in row.replies for place in range(first, last + 1)]
        chosen = np.delete(log_probs, written)
        rollout = Rollout(array("i", tokens.tobytes()), array("f", chosen.tobytes()), reason, tuple(row.replies))
        row.group.rollouts[row.number] = rollout
        if row.group.finished:
            rollouts = [row.group.rollouts[number] for number in range(row.group.request.group_size)]
            self._finished.append(FinishedGroup(row.group.index, rollouts))
        self._stop(number)
        self._responses_ended += 1

    def _stop(self, number: int) -> None:
        row = self._rows[number]
        row.alive = False
        self._moves[number] = 0
        self._live -= 1
        if row.reply is not None:
            row.reply.cancel()
            row.reply = None


def _runs(rows: list[_Row]) -> list[tuple[Sampling, slice]]:
    """The runs of adjacent rows that are sampled alike."""
    runs, first = [], 0
    for sampling, alike in groupby(rows, key=lambda row: row.group.request.sampling):
        end = first + len(list(alike))
        runs.append((sampling, slice(first, end)))
        first = end
    return runs
