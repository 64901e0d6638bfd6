"""avg@k, pass@k and what explains them, of one benchmark sampled k times."""

from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor
from torchmetrics import Metric

MetricState = Tensor | list[Tensor]


class BenchmarkMetrics(Metric):
    """Accuracy over repeated sampling of a benchmark, summed over problems as they come in and over all ranks.

    With c[i, j] = 1 where the j-th of k responses to problem i of n is correct, and a[j] = mean over i of c[i, j]:

    - `avg`, avg@k: the mean of a[j]; equally the mean of c.
    - `std`: the sample standard deviation (k - 1 in the denominator) of a[j]; 0 when k = 1.
    - `pass`, pass@k: the share of problems with a correct response among the k.
    - `boxed`: the share of responses that give a final answer at all.
    - `truncated`: the share of responses cut off at the length limit.
    - `length`: the mean response length in tokens.

    All but `length` are shares in [0, 1].
    """

    full_state_update = False
    correct_per_repeat: Tensor
    solved: Tensor
    boxed: Tensor
    truncated: Tensor
    tokens: Tensor
    problems: Tensor

    def __init__(self, repeats: int) -> None:
        """
        Args:
            repeats: k, the number of responses to each problem.
        """
        super().__init__()
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {repeats}")
        self.repeats = repeats
        # Integer counts: exact, and the same in whatever order and on however many ranks they are summed.
        self.add_state("correct_per_repeat", torch.zeros(repeats, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("solved", "boxed", "truncated", "tokens", "problems"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, correct: Tensor, boxed: Tensor, truncated: Tensor, lengths: Tensor) -> None:
        """Add problems.

        Args:
            correct: Whether the response's answer is right, `(problems, repeats)` bool.
            boxed: Whether the response gives an answer, `(problems, repeats)` bool.
            truncated: Whether the response was cut off, `(problems, repeats)` bool.
            lengths: Response lengths in tokens, `(problems, repeats)` int.

        Raises:
            ValueError: A shape is not `(problems, repeats)`.
        """
        for name, values in (("correct", correct), ("boxed", boxed), ("truncated", truncated), ("lengths", lengths)):
            if values.shape != (correct.shape[0], self.repeats):
                raise ValueError(f"{name} has shape {tuple(values.shape)}, not (problems, {self.repeats})")
        self.correct_per_repeat += correct.bool().sum(dim=0)
        self.solved += correct.bool().any(dim=1).sum()
        self.boxed += boxed.bool().sum()
        self.truncated += truncated.bool().sum()
        self.tokens += lengths.long().sum()
        self.problems += correct.shape[0]

    def compute(self) -> dict[str, float]:
        """The figures by name, as above.

        Raises:
            ValueError: No problem was added.
        """
        problems = int(self.problems)
        if problems == 0:
            raise ValueError("no problem was evaluated")
        responses = problems * self.repeats
        accuracy = self.correct_per_repeat.double() / problems
        return {
            "avg": int(self.correct_per_repeat.sum()) / responses,
            "std": float(accuracy.std(correction=1)) if self.repeats > 1 else 0.0,
            "pass": int(self.solved) / problems,
            "boxed": int(self.boxed) / responses,
            "truncated": int(self.truncated) / responses,
            "length": int(self.tokens) / responses,
        }


def macro_average(results: Mapping[str, Mapping[str, float]]) -> float:
    """The mean of the benchmarks' `avg`, each weighing the same however many problems it has.

    Raises:
        ValueError: There is no benchmark.
    """
    if not results:
        raise ValueError("no benchmark was evaluated")
    return fmean(result["avg"] for result in results.values())
