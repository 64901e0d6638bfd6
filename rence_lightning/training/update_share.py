"""The part of an update that one rank computes: its rows, and the tensors that objectives see.

A group that is cut into pieces couples responses of several rows. A row's loss is that of its whole groups, in which
the log-probabilities of the row's own responses have a gradient and those of the others are known values. The gradients
of the rows add up to the exact gradient of the update.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rence_lightning.objectives import ResponseTensors, Totals
from rence_lightning.policy import PackedRow, Segment, TokenScores
from rence_lightning.sampling.groups import Group, engine_log_probs
from rence_lightning.training.batching import Row, assign, cut, plan_rows


@dataclass
class UpdateShare:
    """The groups of an update that one rank trains on, and their forward passes.

    Attributes:
        groups: Groups of the rank.
        rows: Rows of the rank's gradient passes.
        passes: Number of gradient passes that *every* rank makes in this update, because all ranks must take part in
            the collectives of each; a rank with fewer rows of its own adds idle passes.
        scoring_rows: Rows of the passes without a gradient that score groups that are cut.
        scoring_passes: Number of scoring passes that every rank makes.
        totals: Counts over the whole update.
        at_old_policy: Whether the policy still is pi_old, because this is the first update of its iteration.
        current: Log-probabilities of each response of each group under the policy as it is in this update,
            `(tokens,)`, without a gradient; None where they are not known yet.
        entropy: Sum of the entropies of all response tokens at pi_old, where a pass of this update has taken them.
    """

    groups: list[Group]
    rows: list[Row]
    passes: int
    scoring_rows: list[Row]
    scoring_passes: int
    totals: Totals
    at_old_policy: bool = False
    current: list[list[Tensor | None]] = field(default_factory=list)
    entropy: float = 0.0

    def __post_init__(self) -> None:
        known = self.at_old_policy and self.has_old_log_probs
        self.current = [list(group.old_log_probs) if known else [None] * group.size for group in self.groups]

    @property
    def has_old_log_probs(self) -> bool:
        """Whether log pi_old of all responses is known before the passes of this update."""
        return all(group.old_log_probs for group in self.groups)

    def segments(self, row: Row) -> list[Segment]:
        """The token ids of a row."""
        groups = [(self.groups[group], responses) for group, responses in row]
        return [
            Segment(group.prompt.token_ids, [group.rollouts[i].token_ids for i in responses])
            for group, responses in groups
        ]

    def record(self, row: Row, scores: TokenScores) -> None:
        """Keeps the current log-probabilities of a row, and adds up its entropies; an empty row was idle."""
        if not row:
            return
        for group, response, values in self.split(row, scores.log_probs.detach()):
            self.current[group][response] = values
        if scores.entropy is not None:
            self.entropy += float(scores.entropy.sum())

    def current_is_old(self) -> None:
        """Makes the current log-probabilities, which must be known for all responses, those of pi_old."""
        for group, current in zip(self.groups, self.current, strict=True):
            # Clones, because a view would keep those of a whole pass in memory, and in checkpoints.
            group.old_log_probs = [values.cpu().clone() for values in current if values is not None]

    def split(self, row: Row, values: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """The values `(response tokens,)` of a row, response by response, with the numbers of group and response."""
        places = [(group, response) for group, responses in row for response in responses]
        lengths = [self.groups[group].lengths[response] for group, response in places]
        for (group, response), part in zip(places, values.split(lengths), strict=True):
            yield group, response, part

    def tensors(self, row: Row, log_probs: Tensor) -> list[ResponseTensors]:
        """The whole groups of a row, with the row's own log-probabilities `(response tokens,)`.

        The other responses of a group that is cut have their known log-probabilities. Where these are unknown, the
        objective does not couple responses, and they are set to pi_old, or to 0 together with pi_old.
        """
        numbers = [group for group, _ in row]
        own = {(group, response): part for group, response, part in self.split(row, log_probs)}
        rows: list[Tensor] = []
        old: list[Tensor] = []
        for number in dict.fromkeys(numbers):
            group = self.groups[number]
            for response in range(group.size):
                values = own.get((number, response), self.current[number][response])
                before = group.old_log_probs[response].to(log_probs.device) if group.old_log_probs else None
                if values is None:
                    values = before if before is not None else log_probs.new_zeros(group.lengths[response])
                rows.append(values.to(log_probs.device))
                old.append(before if before is not None else values.detach())
        return response_tensors([self.groups[number] for number in dict.fromkeys(numbers)], rows, old)

    def all_tensors(self) -> list[ResponseTensors]:
        """All groups of the share, with their current log-probabilities, after the passes of the update."""
        rows = [values for group in self.current for values in group if values is not None]
        device = rows[0].device
        old = [values.to(device) for group in self.groups for values in group.old_log_probs] or rows
        return response_tensors(self.groups, rows, old)


def share_of_update(
    groups: Sequence[Group],
    budget: int,
    rank: int,
    world: int,
    packed: bool = True,
    couples: bool = True,
    at_old_policy: bool = False,
) -> UpdateShare:
    """Assigns an update's groups to the ranks by tokens, and plans this rank's passes.

    Args:
        groups: All groups of the update, the same on every rank.
        budget: Largest number of tokens of a pass, `micro_batch_tokens`.
        rank: Number of this rank.
        world: Number of ranks.
        packed: Whether the policy computes packed rows.
        couples: Whether the objective couples the responses of a group, so that a group that is cut is scored first.
        at_old_policy: Whether this is the first update of its iteration; log pi_old of all groups, where it is known
            already, then needs no scoring.
    """
    shapes = [(len(group.prompt.token_ids), group.lengths) for group in groups]
    assigned = assign([prompt + sum(responses) for prompt, responses in shapes], world)
    known = at_old_policy and all(group.old_log_probs for group in groups)
    rows, scoring = [], []
    for indices in assigned:
        own = [shapes[index] for index in indices]
        rows.append(plan_rows(own, budget, packed))
        cuts = [i for i in range(len(own)) if len(cut(own, i, budget, packed)) > 1] if couples and not known else []
        of_cuts = plan_rows([own[i] for i in cuts], budget, packed)
        scoring.append([[piece._replace(group=cuts[piece.group]) for piece in row] for row in of_cuts])
    return UpdateShare(
        groups=[groups[i] for i in assigned[rank]],
        rows=rows[rank],
        passes=max(map(len, rows)),
        scoring_rows=scoring[rank],
        scoring_passes=max(map(len, scoring)),
        totals=count(groups),
        at_old_policy=at_old_policy,
    )


def drop_tokens_of_others(updates: Sequence[Sequence[Group]], budget: int, rank: int, world: int) -> None:
    """Frees the tokens of the groups that other ranks train on; the arguments are those of `share_of_update`."""
    for groups in updates if world > 1 else []:
        own = {id(group) for group in share_of_update(groups, budget, rank, world).groups}
        for group in groups:
            if id(group) not in own:
                group.drop_tokens()


def count(groups: Sequence[Group]) -> Totals:
    """The denominators of an update's means."""
    return Totals(
        prompts=len(groups),
        responses=sum(group.size for group in groups),
        tokens=sum(sum(group.lengths) for group in groups),
        positives=sum(sum(group.positive) for group in groups),
    )


def response_tensors(groups: Sequence[Group], log_probs: list[Tensor], old: list[Tensor]) -> list[ResponseTensors]:
    """Whole groups as an objective sees them, from a `(tokens,)` tensor for each response, group by group.

    The groups are of one size unless a filter has left responses out; there is an element for each size.
    """
    ends = list(accumulate(group.size for group in groups))
    sizes: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        sizes[group.size].append(number)

    def of(values: list[Tensor], numbers: list[int]) -> list[Tensor]:
        return [value for number in numbers for value in values[ends[number] - groups[number].size : ends[number]]]

    return [
        _of_one_size([groups[number] for number in numbers], of(log_probs, numbers), of(old, numbers))
        for numbers in sizes.values()
    ]


def _of_one_size(groups: Sequence[Group], log_probs: list[Tensor], old: list[Tensor]) -> ResponseTensors:
    """Whole groups of one size, padded to one length."""
    device, size = log_probs[0].device, groups[0].size
    lengths = torch.tensor([group.lengths for group in groups])
    engine = [engine_log_probs(rollout) for group in groups for rollout in group.rollouts]

    def padded(rows: list[Tensor]) -> Tensor:
        return pad_sequence(rows, batch_first=True).unflatten(0, (len(groups), size))

    return ResponseTensors(
        log_probs=padded(log_probs),
        old_log_probs=padded(old),
        mask=(torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)).to(device),
        rewards=torch.tensor([group.rewards for group in groups], device=device),
        positive=torch.tensor([group.positive for group in groups], device=device),
        seeds=tuple(group.seed for group in groups),
        engine_log_probs=padded(engine).to(device),
    )


def idle_row(token_id: int, device: torch.device) -> PackedRow:
    """A row with which a rank takes part in the collectives of the other ranks."""
    return PackedRow([Segment([token_id], [[token_id]])], device)
