"""Run directories of a sweep, written by hand: configuration, figures and evaluations, without training."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from rence_lightning.evaluation import (
    Description,
    EvaluatedProblem,
    Sample,
    SampleFolder,
    append_evaluation,
    macro_average,
)
from rence_lightning.evaluation.figures import BenchmarkMetrics

CONFIG = """
seed_everything: {seed}
trainer: {{run_dir: {name}, max_iterations: 2, loggers: [{{class_path: A, init_args: {{name: {name}}}}}]}}
model: {{optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: {rate}, betas: [0.9, 0.95]}}}}}}
"""


def write_run(
    path: Path, rate: float, seed: int, solved: Sequence[int], benchmarks: Sequence[str] = ("sums",), policy: str = "p"
) -> Path:
    """A run with two evaluations, of which the first solves nothing.

    Args:
        path: Run directory.
        rate: Learning rate.
        seed: Seed of the run.
        solved: Number of correct responses, of 2, to each problem in the last evaluation.
        benchmarks: Names of the benchmarks.
        policy: Name of the policy in the evaluations.
    """
    rows = []
    for iteration, counts in ((0, [0] * len(solved)), (2, solved)):
        folder = SampleFolder(path / "evaluations" / f"iteration-{iteration:04d}")
        folder.open(Description(policy, iteration, "digest", "Engine", {"seed": seed}, {}))
        results = {}
        for name in benchmarks:
            samples = [
                tuple(Sample("", "1", n < count, 1.0, int(n < count), 3, "stop") for n in (0, 1)) for count in counts
            ]
            problems = [EvaluatedProblem(str(n), f"{n}+1=?", "", "1", each) for n, each in enumerate(samples)]
            lines = [json.dumps(vars(each) | {"samples": [*map(vars, each.samples)]}) + "\n" for each in problems]
            (folder.path / f"{name}.jsonl").write_text("".join(lines))
            metrics = BenchmarkMetrics(2)
            metrics.update(dict(enumerate(problems)))
            results[name] = metrics.compute()
        append_evaluation(path / "evaluations.jsonl", iteration, results)
        rows.append({"iteration": iteration, "step": iteration, "iteration/kl": rate * (iteration + 1)})
        rows[-1] |= {f"evaluation/{name}/avg": each["avg"] for name, each in results.items()}
        rows[-1]["evaluation/average"] = macro_average(results)
    (path / "config.yaml").write_text(CONFIG.format(seed=seed, name=path.name, rate=f"{rate:.9f}"))
    with (path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
