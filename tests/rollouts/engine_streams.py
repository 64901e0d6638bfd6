"""Streams of requests to an engine, and their results in the order of the requests."""

from collections.abc import Iterable, Iterator, Sequence

from rence_lightning.rollouts import Request, Rollout, RolloutEngine, Sampling


def requests(
    prompts: Iterable[Sequence[int]], group_size: int, sampling: Sampling, seeds: Iterable[int]
) -> Iterator[Request]:
    """One request for each prompt, with the seed at the same place."""
    for prompt, seed in zip(prompts, seeds, strict=True):
        yield Request(prompt, group_size, sampling, seed)


def finished(engine: RolloutEngine, stream: Iterable[Request]) -> list[list[Rollout]]:
    """The responses to all requests. Each must be finished exactly once."""
    groups = [group for step in engine.generate(stream) for group in step.finished]
    assert sorted(group.index for group in groups) == list(range(len(groups)))
    return [group.rollouts for group in sorted(groups, key=lambda group: group.index)]


def sampled(
    engine: RolloutEngine,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[list[Rollout]]:
    """The responses to each prompt."""
    groups = finished(engine, requests(prompts, group_size, sampling, seeds))
    assert [len(group) for group in groups] == [group_size] * len(prompts)
    return groups
