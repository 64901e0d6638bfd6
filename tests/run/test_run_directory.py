"""Names of run directories and what `--ckpt_path` means."""

from pathlib import Path

import pytest

from rence_lightning.errors import UserError
from rence_lightning.run.directory import find_checkpoint, new_run_directory, run_directory_of


def make_checkpoint(run: Path, iteration: int = 1, links: tuple[str, ...] = ("last",)) -> Path:
    folder = run / "checkpoints" / f"iteration-{iteration:04d}"
    folder.mkdir(parents=True)
    (folder / "state").touch()
    for link in links:
        (run / "checkpoints" / link).symlink_to(folder.name)
    return folder


def test_a_taken_directory_gets_the_next_free_number(tmp_path: Path) -> None:
    taken = [new_run_directory(tmp_path / "exp") for _ in range(1)]
    for _ in range(3):
        (taken[-1] / "config.yaml").touch()
        taken.append(new_run_directory(tmp_path / "exp"))
    assert [path.name for path in taken] == ["exp", "exp-2", "exp-3", "exp-4"]


def test_last_is_of_the_newest_run_that_has_one(tmp_path: Path) -> None:
    for name in ("exp", "exp-2", "exp-10"):
        make_checkpoint(tmp_path / name)
    (tmp_path / "exp-11").mkdir()
    assert run_directory_of(find_checkpoint("last", tmp_path / "exp")).name == "exp-10"
    with pytest.raises(UserError, match="no best checkpoint"):
        find_checkpoint("best", tmp_path / "exp")


def test_another_experiment_of_a_similar_name_is_not_taken(tmp_path: Path) -> None:
    for name in ("exp", "exp-7b", "exp-large", "exp2"):
        make_checkpoint(tmp_path / name)
    assert run_directory_of(find_checkpoint("last", tmp_path / "exp")).name == "exp"


def test_a_path_may_be_a_checkpoint_or_a_run(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "exp", 3)
    assert find_checkpoint(str(folder), tmp_path / "other") == folder
    assert find_checkpoint(str(tmp_path / "exp"), tmp_path / "other") == folder
    with pytest.raises(UserError, match="is not a checkpoint"):
        find_checkpoint(str(tmp_path / "nowhere"), tmp_path / "other")
