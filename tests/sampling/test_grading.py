"""Grading beside sampling: nothing is lost or graded twice, it happens while sampling goes on, errors come through."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer
from hypothesis import given
from hypothesis import strategies as st

from rence_lightning.rewards import Reward, Score
from rence_lightning.rollouts import TransformersEngine
from rence_lightning.sampling.grading import BesideSampling


@given(items=st.lists(st.integers(), max_size=50))
def test_each_item_is_worked_on_once(items: list[int]) -> None:
    seen: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        seen.extend(batch)
        return [item + 1 for item in batch]

    with BesideSampling(work) as beside:
        for key, item in enumerate(items):
            beside.add(key, item)
        assert beside.results() == {key: item + 1 for key, item in enumerate(items)}
    assert seen == items


def test_work_begins_before_all_is_given() -> None:
    begun = threading.Event()

    def work(batch: Sequence[int]) -> Sequence[int]:
        begun.set()
        return batch

    with BesideSampling(work) as beside:
        beside.add(0, 0)
        assert begun.wait(10), "nothing was worked on while more could come"
        assert beside.results() == {0: 0}


def test_an_error_reaches_who_adds_and_who_waits() -> None:
    def work(batch: Sequence[int]) -> Sequence[int]:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"), BesideSampling(work) as beside:
        beside.add(0, 0)
        beside.results()
    with pytest.raises(OSError, match="no room"), BesideSampling(work) as beside:
        while True:
            beside.add(0, 0)


def test_an_interrupted_sampling_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), BesideSampling(lambda batch: batch) as beside:
        beside.add(0, 0)
        raise KeyboardInterrupt
    assert threading.active_count() == before


class Watching(Reward):
    """Notes on which thread it is called, and with how many responses."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def score(self, gold: Sequence[str], responses: Sequence[str]) -> list[Score]:
        self.seen.append((threading.current_thread().name, len(responses)))
        return [Score(float(index % 2), index % 2 == 1, None) for index in range(len(responses))]


def test_groups_are_graded_while_others_are_sampled(tmp_path: Path) -> None:
    fresh_start()
    reward = Watching()
    trainer = make_trainer(tmp_path / "run", max_iterations=1)
    data = make_data(reward=reward, engine=TransformersEngine(max_sequences=8), prompts_per_draw=8)
    trainer.fit(make_module(), data)
    assert {thread for thread, _ in reward.seen} == {"grading"}
    assert len(reward.seen) > 1, "all was graded at the end"
    assert sum(count for _, count in reward.seen) == data.responses_total
