"""`python -m benchmarks.memory.point JSON`: measures one point in a process of its own, and prints it as JSON.

The peak of a process includes what ran in it before, and memory that is freed is not always returned to the system.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.memory.head import gradient_error, ways
from benchmarks.memory.peak import cost_of

ROOT = Path(__file__).parent.parent.parent
REPEATS = 3


@dataclass(frozen=True)
class HeadPoint:
    """The output projection alone, forward and backward, with an arbitrary weight on each token's log-probability.

    Attributes:
        way: Key of the way, in `benchmarks.memory.head.ways`.
        tokens: Number of tokens.
        hidden: Size of the hidden states.
        vocabulary: Number of tokens in the vocabulary.
        dtype: Data type of states and weights.
        device: Device to run on.
    """

    way: str
    tokens: int
    hidden: int
    vocabulary: int
    dtype: str = "float32"
    device: str = "cpu"

    def measure(self) -> dict[str, Any]:
        device = torch.device(self.device)
        way = ways(device)[self.way]
        run(way.log_probs, *self._inputs(8, device))  # starts threads and loads kernels
        inputs = self._inputs(self.tokens, device)
        cost = cost_of(lambda: run(way.log_probs, *inputs), device, REPEATS)
        return {**asdict(cost), "error": gradient_error(way, device)}

    def _inputs(self, tokens: int, device: torch.device) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
        torch.manual_seed(0)
        dtype = getattr(torch, self.dtype)
        head = nn.Linear(self.hidden, self.vocabulary, bias=False, dtype=dtype, device=device)
        states = torch.randn(tokens, self.hidden, dtype=dtype, device=device, requires_grad=True)
        targets = torch.randint(0, self.vocabulary, (tokens,), device=device)
        return states, head, targets, torch.randn(tokens, device=device)


def run(log_probs: Any, states: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor) -> None:
    """Forward and backward; a way that gives a scalar is back-propagated as it is."""
    values = log_probs(states, head, targets)
    values.backward(weights.to(values.dtype) if values.shape == weights.shape else None)
    states.grad = head.weight.grad = None


Layout = Literal["packed", "padded", "naive"]


@dataclass(frozen=True)
class UpdatePoint:
    """The forward and backward pass of an update: `groups` prompts with `group_size` responses each, in one pass.

    The lengths of the responses of a group are spread evenly from an eighth of the longest to the longest.

    Attributes:
        layout: `packed` and `padded` are the project's; `naive` is a padded batch with the logits of all positions.
        response_tokens: Length of the longest response.
        vocabulary: Number of tokens in the vocabulary.
        prompt_tokens: Length of each prompt.
        groups: Number of prompts.
        group_size: Number of responses to each prompt.
        hidden: Size of the hidden states.
        layers: Number of layers.
        device: Device to run on.
    """

    layout: Layout
    response_tokens: int
    vocabulary: int
    prompt_tokens: int = 64
    groups: int = 1
    group_size: int = 8
    hidden: int = 64
    layers: int = 2
    device: str = "cpu"

    def measure(self) -> dict[str, Any]:
        from benchmarks.memory.update import Update

        device = torch.device(self.device)
        update = Update(self, device)
        # The first pass starts threads and allocates the gradients, which are not what differs between layouts.
        update.run(responses=[2] * self.group_size)
        return asdict(cost_of(lambda: update.run(self.lengths), device, REPEATS))

    @property
    def bytes_of_all_logits(self) -> int:
        """Memory of the logits of all positions of a padded batch in float32."""
        positions = self.groups * self.group_size * (self.prompt_tokens + self.response_tokens)
        return 4 * positions * self.vocabulary

    @property
    def lengths(self) -> list[int]:
        """Lengths of the responses of each group."""
        return [max(1, self.response_tokens * (i + 1) // self.group_size) for i in range(self.group_size)]


Point = HeadPoint | UpdatePoint
KINDS: dict[str, type[Point]] = {"head": HeadPoint, "update": UpdatePoint}


def measure_apart(point: Point) -> dict[str, Any]:
    """Measures a point in a process of its own.

    Raises:
        RuntimeError: The process failed, for instance because memory ran out; the message holds the last line it wrote.
    """
    kind = next(name for name, cls in KINDS.items() if isinstance(point, cls))
    command = [sys.executable, "-m", __name__, json.dumps({"kind": kind, **asdict(point)})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"{point}: {last}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    print(json.dumps(KINDS[settings.pop("kind")](**settings).measure()))
