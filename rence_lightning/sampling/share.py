"""One rank's share of a draw: requests to the engine, its steps, and the groups that come of them."""

from collections.abc import Callable, Iterator, Sequence

from rence_lightning.errors import call_plugin, invalid_return
from rence_lightning.prompts import Prompt
from rence_lightning.rollouts import FinishedGroup, Request, Rollout, RolloutEngine, SamplingStep
from rence_lightning.sampling.curriculum import Outcome
from rence_lightning.sampling.grading import Grading
from rence_lightning.sampling.groups import Group
from rence_lightning.sampling.horizon import Horizon
from rence_lightning.sampling.tail import TailClock

Progress = Callable[[int, int], None]
"""Called with the numbers of responses finished and tokens sampled on this rank since the last call. What it raises
ends sampling."""

POLL_SECONDS = 0.2
"""Time between two calls of `Progress`, which may interrupt, while the rank waits for grading."""


class DrawShare:
    """Samples and grades the groups at some positions of a draw, as far as they can still count.

    Args:
        engine: Engine that samples.
        prompts: Prompts by position in the draw, ascending.
        requests: Request of each prompt, in the same order and all with the same group size.
        horizon: Last position that can count; it moves as groups are kept.
        grading: Grading of the groups that are finished.
        progress: Function that is told of progress.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        prompts: dict[int, Prompt],
        requests: Sequence[Request],
        horizon: Horizon,
        grading: Grading,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._positions = list(prompts)
        self._requests = requests
        self._horizon = horizon
        self._grading = grading
        self._progress = progress
        self._group_size = requests[0].group_size if requests else 0
        self._taken = 0  # number of requests that the engine has taken
        self._open: set[int] = set()  # numbers of those that are not finished
        self._ended = 0  # number of responses that have ended
        self._ungraded: set[int] = set()  # positions of finished groups
        self._groups: dict[int, Group] = {}  # graded groups by position
        self.clock = TailClock()

    @property
    def responses_begun(self) -> int:
        """Number of responses that the engine has begun to sample."""
        return self._taken * self._group_size

    def groups(self) -> dict[int, Group]:
        """The graded groups up to the horizon, by position, once it is final."""
        return {position: self._groups[position] for position in self._positions if position <= self._horizon.last}

    def sample(self) -> None:
        """Samples and grades until every group up to the horizon is graded.

        Raises:
            PartError: The engine or the grading failed.
        """
        stream = call_plugin(
            self._engine, "generate()", lambda: self._engine.generate(self._stream(), _Cancelled(self))
        )
        try:
            while (step := call_plugin(self._engine, "generate()", lambda: next(stream, None))) is not None:
                self._take(step)
                self._progress(step.responses, step.tokens)
        finally:
            if hasattr(stream, "close"):  # ends the engine's work where something was raised
                stream.close()
        self._check_complete()
        while any(position <= self._horizon.last for position in self._ungraded):
            self._collect(POLL_SECONDS)
            self._progress(0, 0)
        self.clock.update(0)

    def is_cancelled(self, number: int) -> bool:
        """Whether the group of a request, counted from 0, can no longer count."""
        return self._positions[number] > self._horizon.last

    def _stream(self) -> Iterator[Request]:
        """The requests, each as late as the engine has room for it; none after the horizon."""
        for number, request in enumerate(self._requests):
            if self.is_cancelled(number):
                break
            self._open.add(number)
            self._taken += 1
            yield request
        self.clock.last_request()

    def _take(self, step: SamplingStep) -> None:
        """Has finished groups graded, and moves the horizon by those that are."""
        if not isinstance(step, SamplingStep):
            raise invalid_return(self._engine, "generate()", step, "an iterator of SamplingStep")
        for group in step.finished:
            self._finish(group)
        self._ended += step.responses
        self._collect()
        self.clock.update(self._running())

    def _finish(self, group: FinishedGroup) -> None:
        if not isinstance(group, FinishedGroup) or group.index not in self._open:
            expected = "a FinishedGroup for each request that it has taken, once"
            raise invalid_return(self._engine, "generate()", group, expected)
        position = self._positions[group.index]
        _check_rollouts(self._engine, self._prompts[position], group.rollouts, self._group_size)
        self._open.remove(group.index)
        if not self.is_cancelled(group.index):
            self._ungraded.add(position)
            self._grading.add(position, group.rollouts)

    def _collect(self, seconds: float = 0.0) -> None:
        """Takes the groups that were graded; waits up to `seconds` for the first of them."""
        for position, group in self._grading.graded(seconds):
            self._ungraded.remove(position)
            self._groups[position] = group
            if group.outcome is Outcome.KEPT:
                self._horizon.keep(position)
        self._horizon.look()

    def _running(self) -> int:
        """Number of responses that are being sampled; an upper bound where groups were cancelled in part."""
        needed = sum(not self.is_cancelled(number) for number in self._open)
        return min(needed * self._group_size, self.responses_begun - self._ended)

    def _check_complete(self) -> None:
        missing = [number for number in range(len(self._requests)) if number in self._open or number >= self._taken]
        missing = [number for number in missing if not self.is_cancelled(number)]
        if missing:
            problem = self._prompts[self._positions[missing[0]]].problem.id
            expected = f"the responses to all problems before it ends; those to problem {problem} are missing"
            raise invalid_return(self._engine, "generate()", StopIteration(), expected)


class _Cancelled:
    """The numbers of the requests whose groups can no longer count, as the engine looks them up."""

    def __init__(self, share: DrawShare) -> None:
        self._share = share

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._share.is_cancelled(number)


def _check_rollouts(engine: RolloutEngine, prompt: Prompt, rollouts: list[Rollout], group_size: int) -> None:
    doing = f"generate(), problem {prompt.problem.id}"
    if not isinstance(rollouts, list) or len(rollouts) != group_size:
        raise invalid_return(engine, doing, rollouts, f"a list of {group_size} rollouts, one per response")
    for rollout in rollouts:
        if not isinstance(rollout, Rollout) or not 0 < len(rollout.token_ids) == len(rollout.log_probs):
            raise invalid_return(
                engine, doing, rollout, "a Rollout with at least one token and a log-probability for each"
            )
