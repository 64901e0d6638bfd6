"""Checkpoints that are written while training goes on: what is written is the state at which they began."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from arithmetic_run import assert_same, fresh_start, make_data, make_module, make_trainer, state_of
from two_processes import in_two_processes

from rence_lightning.callbacks import Callback, Checkpoint
from rence_lightning.errors import CheckpointError, PartError
from rence_lightning.run.checkpoint import read_state
from rence_lightning.training.strategy import FullyShardStrategy

ITERATION = "iteration-0002"


class Released(Callback):
    """Lets a writer go on once the iteration after the checkpoint has changed the weights."""

    def __init__(self) -> None:
        self.moment = threading.Event()
        self.seen: list[str] = []

    def hold(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        """Makes `module.save` wait with what the loop would change, where it is called on another thread."""
        save = module.save

        def held(state: Any, *arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                assert self.moment.wait(120)
            return save(state, *arguments, **named)

        monkeypatch.setattr(module, "save", held)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 2 and not self.moment.is_set():
            self.seen = [path.name for path in (trainer.run_dir / "checkpoints").glob("[!.]*")]
            self.moment.set()


def run(run_dir: Path, background: bool, *callbacks: Any, **settings: Any) -> None:
    fresh_start()
    checkpoint = Checkpoint(every=2, keep_last=2, background=background)
    make_trainer(run_dir, [checkpoint, *callbacks], max_iterations=3, **settings).fit(make_module(), make_data())


def test_the_state_is_that_of_the_moment_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "waited", False)
    released = Released()
    released.hold(monkeypatch, torch)
    run(tmp_path / "went-on", True, released)
    assert released.seen == [], "a checkpoint was there before it was written"
    for name in (ITERATION, "last"):
        states = []
        for directory in ("waited", "went-on"):
            folder = tmp_path / directory / "checkpoints" / name
            states.append([torch.load(folder / file, weights_only=True) for file in ("state", "rng-0")])
        assert_same(*states)
    assert (tmp_path / "went-on/checkpoints/last").resolve().name == "iteration-0003", "the end was not awaited"


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    run(tmp_path / "whole", False)
    run(tmp_path / "resumed", True)
    fresh_start(7)
    trainer = make_trainer(tmp_path / "again", [Checkpoint(every=2, background=True)], max_iterations=3)
    trainer.fit(make_module(), make_data(), ckpt_path=str(tmp_path / "resumed/checkpoints" / ITERATION))
    assert_same(state_of(tmp_path / "whole"), state_of(trainer.run_dir))


def test_a_run_that_fails_within_a_step_waits_for_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(Released):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 2:
                trainer.step.under_way = True  # so that nothing more can be saved
                threading.Timer(0.5, self.moment.set).start()
                raise ValueError("broken")

    breaks = Breaks()
    breaks.hold(monkeypatch, torch)
    with pytest.raises(PartError, match="broken"):
        run(tmp_path / "run", True, breaks)
    assert (tmp_path / "run/checkpoints/last").resolve().name == ITERATION


def test_a_disk_that_refuses_ends_the_run_at_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(state: Any, *arguments: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(28, "No space left on device")
        save(state, *arguments)

    run(tmp_path / "run", True)
    monkeypatch.setattr(torch, "save", full)
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Checkpoint(every=1, background=True)], max_iterations=6)
    with pytest.raises(CheckpointError, match=r"iteration-0004: .*No space left .*; earlier ones are intact"):
        trainer.fit(make_module(), make_data(), ckpt_path="last")
    left = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert left == [ITERATION, "iteration-0003", "last"], "something half written is left"
    assert trainer.current_epoch == 5


def go_on_in_two(rank: int, folder: Path) -> None:
    """Runs in each of two processes: the shards are written while both go on to sample and to update."""
    with pytest.MonkeyPatch.context() as patch:
        run(folder / "waited", False, devices=2, strategy=FullyShardStrategy())
        released = Released()
        released.hold(patch, dcp)
        run(folder / "went-on", True, released, devices=2, strategy=FullyShardStrategy())
        assert released.seen == []


@pytest.mark.slow
def test_shards_are_written_by_all_processes_while_they_train(tmp_path: Path) -> None:
    in_two_processes(go_on_in_two, tmp_path)
    states = []
    for directory in ("waited", "went-on"):
        module = make_module()
        module.load(make_trainer(tmp_path / "none").fabric, True)
        folder = tmp_path / directory / "checkpoints" / ITERATION
        optimizer = torch.optim.AdamW(module.policy.parameters())
        run_state = read_state(folder, module.policy, optimizer)
        states.append([module.policy.state_dict(), optimizer.state_dict(), run_state])
    assert_same(*states)
