"""A problem with a final answer: what a prompt asks, what a reward judges, what a benchmark counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One row of a data set.

    Attributes:
        id: Identifier in caches, logs and checkpoints, unique within its source and the same in every run.
        problem: Text of the problem, without instructions or template.
        answer: Final answer without its solution; never empty in the sources of this project.
        source: Name of the data set.
        fields: All columns of the row by name, as the data set has them, such as `difficulty`. Rewards and filters may
            read them; the policy sees none of them.
        messages: Turns of a chat, `{"role": ..., "content": ...}`, that replace the template's; empty for none.
        system: System turn of this problem, in place of the template's; None for the template's.
        template: Instructions of this problem, in place of the template's text; None for the template's.
    """

    id: str
    problem: str
    answer: str
    source: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    messages: Sequence[Mapping[str, str]] = field(default=(), hash=False)
    system: str | None = None
    template: str | None = None
