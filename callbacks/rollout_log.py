"""The log of rollouts: all groups up to the last of each batch as JSON Lines."""

import json
from typing import Any

from rence_lightning.callbacks.hooks import Callback
from rence_lightning.errors import UserError
from rence_lightning.evaluation import iteration_of
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.groups import Group
from rence_lightning.training.module import PolicyModule
from rence_lightning.training.trainer import Trainer


class RolloutLog(Callback):
    """Writes the sampled groups to `rollouts/iteration-0003.jsonl` in the run directory, one line for each group.

    Args:
        every: Number of iterations from one logged iteration to the next; 0 disables the log.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 0:
            raise UserError(f"rollout_log: every is {every}; it must be >= 0")
        self.every = every

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


def _row(group: Group) -> dict[str, Any]:
    problem, dropped = group.prompt.problem, group.dropped or (False,) * group.size
    responses = zip(group.responses, group.scores, group.positive, dropped, group.rollouts, strict=True)
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
                "tokens": rollout.chosen_tokens,
                "finish_reason": rollout.finish_reason,
            }
            for text, score, positive, dropped, rollout in responses
        ],
    }
