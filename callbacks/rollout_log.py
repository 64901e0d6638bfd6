"""The log of rollouts: all groups up to the last of each batch as JSON Lines, and a few of them for the loggers."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rence_lightning.callbacks.base import Callback
from rence_lightning.errors import UserError
from rence_lightning.evaluation import iteration_of
from rence_lightning.run.loggers import log_table
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class RolloutLog(Callback):
    """Writes the sampled groups to `rollouts/iteration-0003.jsonl` in the run directory, one line for each group.

    Loggers that take tables (W&B, Trackio) get the responses of a few groups as the table `rollouts/samples`.

    Args:
        every: Number of iterations from one logged iteration to the next; 0 disables the log.
        groups_in_table: Number of groups of a logged iteration that loggers get, one of each outcome first; 0 sends
            none.
    """

    def __init__(self, every: int = 1, groups_in_table: int = 4) -> None:
        if every < 0 or groups_in_table < 0:
            raise UserError(f"rollout_log: every is {every} and groups_in_table {groups_in_table}; both must be >= 0")
        self.every = every
        self.groups_in_table = groups_in_table

    def on_train_start(self, trainer: Trainer, module: PolicyModule) -> None:
        """Removes the files of iterations that a killed run had begun after its checkpoint: they are sampled again."""
        done, updates = trainer.progress
        if trainer.session.resumed_in_place and trainer.is_global_zero:
            for file in (trainer.run_dir / "rollouts").glob("iteration-*.jsonl"):
                if (number := iteration_of(file)) is not None and number > done + bool(updates):
                    file.unlink()

    def on_rollouts_end(self, trainer: Trainer, module: PolicyModule, batch: IterationBatch) -> None:
        if not self.every or batch.iteration % self.every or not trainer.is_global_zero:
            return
        folder = trainer.run_dir / "rollouts"
        folder.mkdir(exist_ok=True)
        with (folder / f"iteration-{batch.iteration:04d}.jsonl").open("w", encoding="utf-8") as file:
            for group in batch.sampled:
                # ASCII: model output may contain lone surrogates, which cannot be encoded in UTF-8.
                file.write(json.dumps(_row(group)) + "\n")
        shown = [_row(group) for group in _of_every_outcome(batch.sampled, self.groups_in_table)]
        if shown:
            rows = [_cells(batch.iteration, group, response) for group in shown for response in group["responses"]]
            log_table(trainer.loggers, "rollouts/samples", COLUMNS, rows, trainer.global_step)


def _of_every_outcome(groups: Sequence[Group], number: int) -> list[Group]:
    """The first groups of each outcome, then the second ones and so on, up to a number of groups."""
    seen: Counter[str] = Counter()
    turns = []
    for group in groups:
        turns.append(seen[str(group.outcome)])
        seen[str(group.outcome)] += 1
    order = sorted(range(len(groups)), key=lambda index: (turns[index], index))
    return [groups[index] for index in order[:number]]


OF_GROUP = ("id", "problem", "gold", "outcome")
OF_RESPONSE = ("text", "answer", "reward", "correct", "positive", "dropped", "tokens", "finish_reason")
COLUMNS = ("iteration", *OF_GROUP, *OF_RESPONSE)


def _cells(iteration: int, group: dict[str, Any], response: dict[str, Any]) -> list[Any]:
    """The row of a response in the table, with the names of the log."""
    return [iteration, *(group[name] for name in OF_GROUP), *(response.get(name, False) for name in OF_RESPONSE)]


def _row(group: Group) -> dict[str, Any]:
    problem = group.prompt.problem
    return {
        "id": problem.id,
        "problem": problem.problem,
        "gold": problem.answer,
        "outcome": str(group.outcome),
        "responses": [
            {
                "text": text,
                "answer": score.answer,
                "reward": score.reward,
                **({"parts": dict(score.parts)} if score.parts else {}),
                "correct": score.correct,
                "positive": positive,
                **({"dropped": True} if dropped else {}),
                "tokens": len(rollout.token_ids),
                "finish_reason": rollout.finish_reason,
            }
            for text, score, positive, dropped, rollout in zip(
                group.responses,
                group.scores,
                group.positive,
                group.dropped or (False,) * group.size,
                group.rollouts,
                strict=True,
            )
        ],
    }
