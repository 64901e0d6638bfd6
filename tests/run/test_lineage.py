"""Names of runs, the meaning of `--ckpt_path`, and where a resumed run continues; tested on hand-made folders."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rence_lightning.errors import UserError
from rence_lightning.run.directory import Run, SavedAt, point, prune
from rence_lightning.run.lineage import find_checkpoint, resume, unfinished_evaluation
from rence_lightning.run.lock import Lock


def make_checkpoint(run: Run, iteration: int, update: int = 0, last: bool = True, best: bool = False) -> Path:
    saved = SavedAt(run.id, iteration, update, 4 * iteration + update)
    folder = run.folder_of(saved)
    folder.mkdir(parents=True)
    (folder / "state").touch()
    saved.write(folder)
    if last:
        point(run, "last", folder)
    if best:
        point(run, "best", folder)
    return folder


def started(wanted: Path, *iterations: int) -> Run:
    run = Run.create(wanted, "fit")
    for iteration in iterations:
        make_checkpoint(run, iteration)
    return run


def test_a_taken_directory_gets_the_next_free_number(tmp_path: Path) -> None:
    runs = [Run.create(tmp_path / "exp", "fit") for _ in range(4)]
    assert [run.directory.name for run in runs] == ["exp", "exp-2", "exp-3", "exp-4"]
    assert {run.name for run in runs} == {"exp"} and len({run.id for run in runs}) == 4


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "exp", "validate", {"run": "x", "directory": "y", "checkpoint": "z"})
    run = run.with_session(tmp_path / "iteration-0003", "config.yaml", ["a: 1 -> 2"])
    assert Run.open(run.directory) == run
    assert json.loads((run.directory / "run.json").read_text())["sessions"][0]["checkpoint"] == "iteration-0003"
    assert Run.open(tmp_path) is None


def test_last_is_of_the_newest_run_of_that_name_that_has_one(tmp_path: Path) -> None:
    for iterations in ((3,), (2,), ()):
        started(tmp_path / "exp", *iterations)
    assert find_checkpoint("last", tmp_path / "exp") == tmp_path / "exp-2" / "checkpoints" / "iteration-0002"
    with pytest.raises(UserError, match=r"no best checkpoint of a run named .*exp"):
        find_checkpoint("best", tmp_path / "exp")


def test_a_run_whose_own_name_ends_in_a_number_is_not_a_successor(tmp_path: Path) -> None:
    """`runs/exp-7`, started under that name, has nothing to do with `runs/exp`."""
    first = started(tmp_path / "exp", 1)
    started(tmp_path / "exp-7", 5)
    found = find_checkpoint("last", tmp_path / "exp")
    assert found == first.directory / "checkpoints" / "iteration-0001"
    assert resume(found, tmp_path / "exp").run == first


@pytest.mark.parametrize("number", [9, 9999])
def test_the_newest_checkpoint_does_not_depend_on_the_number_of_digits(number: int, tmp_path: Path) -> None:
    run = started(tmp_path / "exp", number + 1, number)
    assert [SavedAt.read(folder).iteration for folder in run.checkpoints] == [number, number + 1]
    assert resume(run.checkpoints[-1], tmp_path / "exp").run == run
    assert resume(run.checkpoints[0], tmp_path / "exp").run is None


def test_a_checkpoint_between_two_updates_is_later_than_its_iteration(tmp_path: Path) -> None:
    run = started(tmp_path / "exp", 3)
    make_checkpoint(run, 3, update=11)
    make_checkpoint(run, 3, update=2)
    assert [SavedAt.read(folder).update for folder in run.checkpoints] == [0, 2, 11]


def test_an_older_checkpoint_branches(tmp_path: Path) -> None:
    run = started(tmp_path / "exp", 1, 2)
    branch = resume(run.checkpoints[0], tmp_path / "exp")
    assert branch.run is None and "has continued to iteration-0002" in branch.reason
    assert branch.parent == {"run": run.id, "directory": str(run.directory), "checkpoint": "iteration-0001"}


def test_a_copy_branches_and_records_no_directory_of_its_parent(tmp_path: Path) -> None:
    run = started(tmp_path / "exp", 1)
    copy = tmp_path / "x" / "iteration-0010"
    copy.mkdir(parents=True)
    for file in run.checkpoints[0].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    branch = resume(find_checkpoint(str(copy), tmp_path / "new"), tmp_path / "new")
    assert branch.run is None and branch.parent == {"run": run.id, "directory": "", "checkpoint": "iteration-0010"}


def test_a_run_of_another_name_branches(tmp_path: Path) -> None:
    run = started(tmp_path / "exp", 1)
    assert resume(run.checkpoints[0], tmp_path / "other").run is None
    assert resume(run.checkpoints[0], tmp_path / "elsewhere" / "exp").run is None


def test_a_path_may_be_a_checkpoint_or_a_run(tmp_path: Path) -> None:
    run = started(tmp_path / "exp", 3)
    assert find_checkpoint(str(run.checkpoints[0]), tmp_path / "other") == run.checkpoints[0]
    assert find_checkpoint(str(run.directory), tmp_path / "other") == run.checkpoints[0]
    with pytest.raises(UserError, match="is not a checkpoint"):
        find_checkpoint(str(tmp_path / "nowhere"), tmp_path / "other")
    with pytest.raises(UserError, match=r"^\S+nowhere is not a checkpoint: give a run directory"):  # of `export`
        find_checkpoint(str(tmp_path / "nowhere"), Path())


def test_an_incomplete_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    run = started(tmp_path / "exp", 3)
    (run.checkpoints[0] / "checkpoint.json").write_text('{"run": ')
    with pytest.raises(UserError, match="iteration-0003 is not a complete checkpoint; give another"):
        resume(run.checkpoints[0], tmp_path / "exp")


def test_the_newest_and_the_linked_checkpoints_are_kept(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "exp", "fit")
    make_checkpoint(run, 1, best=True)
    for iteration in (9, 10, 11):
        make_checkpoint(run, iteration)
    prune(run, keep_last=2)
    assert [folder.name for folder in run.checkpoints] == ["iteration-0001", "iteration-0010", "iteration-0011"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "exp", "fit")
    lock = Lock(run.directory)
    with pytest.raises(UserError, match=r"exp is in use by another process \(\S+ \d+\)"):
        Lock(run.directory)
    lock.release()
    Lock(run.directory).release()


def test_an_evaluation_in_progress_is_not_joined(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "exp-validate", "validate")
    (run.directory / "config.yaml").write_text("a: 1\n")
    assert unfinished_evaluation(tmp_path / "exp-validate", "a: 1\n") == run
    assert unfinished_evaluation(tmp_path / "exp-validate", "a: 2\n") is None
    lock = Lock(run.directory)
    assert unfinished_evaluation(tmp_path / "exp-validate", "a: 1\n") is None
    lock.release()


def test_runs_that_start_at_once_get_directories_of_their_own(tmp_path: Path) -> None:
    for trial in range(20):
        with ThreadPoolExecutor(8) as threads:
            runs = list(threads.map(lambda _, name=f"exp{trial}": Run.create(tmp_path / name, "fit"), range(8)))
        assert len({run.directory for run in runs}) == 8
        assert all(Run.open(run.directory) == run for run in runs)


def test_a_checkpoint_that_was_being_replaced_is_put_back(tmp_path: Path) -> None:
    """Killed between the two renames: the older one has made room, the newer one is not there yet."""
    run = started(tmp_path / "exp", 3)
    folder = run.checkpoints[0]
    folder.replace(folder.with_name(f".old-{folder.name}"))
    assert find_checkpoint("last", tmp_path / "exp") == folder
