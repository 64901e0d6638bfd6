"""Demonstrations in the place of rollouts: groups of one response, the solution that comes with a problem."""

from array import array
from collections.abc import Sequence
from dataclasses import replace

from rence_lightning.errors import UserError, shortened
from rence_lightning.prompts import Cleaned, Problem, Prompt, fingerprint
from rence_lightning.prompts.cleaning import Finding
from rence_lightning.rewards import Score
from rence_lightning.rollouts import Rollout, end_of_sequence_ids
from rence_lightning.sampling.batch import IterationBatch
from rence_lightning.sampling.curriculum.filtering import Outcome
from rence_lightning.sampling.curriculum.pool import PromptPool
from rence_lightning.sampling.datamodule import RolloutDataModule, RolloutDataset
from rence_lightning.sampling.groups import Group


class DemonstrationDataset(RolloutDataset):
    """Yields one `IterationBatch` per iteration, which is an epoch: every demonstration once, in a new random order."""

    _data: "DemonstrationDataModule"

    def _next_iteration(self) -> IterationBatch:
        data = self._data
        data.pool.start_iteration()
        data.iteration += 1
        groups = [replace(data.demonstrations[index]) for index in data.pool.draw(len(data.prompts))]
        return IterationBatch(data.iteration, data.prompts_per_update, len(groups), groups)


class DemonstrationDataModule(RolloutDataModule):
    """Gives the demonstrations that a warm start trains on; problems, cleaning, template and limits are those of `fit`.

    Attributes:
        demonstrations: Groups of one response, the solution, by the index of the prompt.
        held_out: The same for the problems that are held out, where they have a solution within the limits.
    """

    command = "warmup"
    dataset = DemonstrationDataset

    def setup(self, stage: str) -> None:
        """Loads and cleans the problems, and encodes their solutions; those that are too long are left out and counted.

        Raises:
            UserError: The problems cannot be read, one has no solution, or no solution is short enough.
        """
        if stage != "fit" or self.prompts:
            return
        super().setup(stage)
        prompts = self.prompts
        if unsolved := [prompt.problem for prompt in prompts.values() if not _has_solution(prompt.problem)]:
            problem = unsolved[0]
            raise UserError(
                f"{problem.source}: problem {problem.id} ({shortened(problem.problem)}) has no solution to learn from; "
                f"its fields are {', '.join(problem.fields) or 'none'}: name the one with the whole solution by "
                "solution_field of the source, or remove the row"
            )
        groups, limit = self._groups(list(prompts.values())), self.sampling.max_response_tokens
        if not groups:
            raise UserError(f"data: all {len(prompts)} solutions are longer than sampling.max_response_tokens, {limit}")
        self.demonstrations = {group.prompt.index: group for group in groups}
        self.prompts = {index: prompts[index] for index in self.demonstrations}
        gone = prompts.keys() - self.prompts.keys()
        long = [Finding(prompts[index].problem, "long_solution") for index in sorted(gone)]
        kept = [position for index, position in enumerate(self.cleaned.kept) if index not in gone]
        self.cleaned = Cleaned(kept, [*self.cleaned.findings, *long])
        whole = [
            replace(each.prompt, token_ids=(*each.prompt.token_ids, *each.rollouts[0].token_ids)) for each in groups
        ]
        self._fingerprint = fingerprint(whole)
        self.pool = PromptPool(self.prompts, self.seed)
        self.prompts_per_iteration = -(-len(self.prompts) // self.prompts_per_update) * self.prompts_per_update
        known = [each for problems in self._held_out.values() for each in problems if _has_solution(each)]
        encoded = enumerate(self.template.encode_all(self.tokenizer, known) if known else ())
        asked = [Prompt(number, known[number], tuple(token_ids)) for number, token_ids in encoded]
        self.held_out = self._groups([each for each in asked if len(each.token_ids) <= self.longest_prompt])

    def _groups(self, prompts: Sequence[Prompt]) -> list[Group]:
        """The demonstrations for prompts, without those that are too long."""
        texts, ends = [prompt.problem.solution or "" for prompt in prompts], end_of_sequence_ids(self._model)
        encoded = self.template.encode_solutions(self.tokenizer, texts, ends) if texts else []
        groups = []
        for prompt, text, ids in zip(prompts, texts, encoded, strict=True):
            rollout, score = Rollout(array("i", ids), array("f", bytes(4 * len(ids))), "stop"), Score(1.0, True)
            if len(ids) <= self.sampling.max_response_tokens:
                groups.append(Group(prompt, [rollout], [text], [score], 1.0, positive=(True,), outcome=Outcome.KEPT))
        return groups


def _has_solution(problem: Problem) -> bool:
    return bool((problem.solution or "").strip())
