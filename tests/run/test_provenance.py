"""The versions and commits that run.json records."""

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from rence_lightning.run.directory import Run
from rence_lightning.run.provenance import PACKAGE, commit_of, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **identity})
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    git(tmp_path, "init")
    (tmp_path / "my_reward.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_the_commit_of_the_repository_around_a_folder(repository: Path) -> None:
    (repository / "inside").mkdir()
    head = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository / "inside") == head
    (repository / "notes.txt").write_text("not tracked: no part of the commit\n")
    assert commit_of(repository) == head
    (repository / "my_reward.py").write_text("2\n")
    assert commit_of(repository) == f"{head}-dirty"


def test_no_repository_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit_of(tmp_path) == ""
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init")
    assert commit_of(tmp_path / "empty") == "", "a repository without a commit"
    monkeypatch.setenv("PATH", "/no/such/folder")
    assert commit_of(PACKAGE) == ""
    assert provenance(tmp_path)["commits"] == {}


def test_a_run_records_what_it_was_made_with(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    Run.create(repository / "run", "fit").with_session(None, None, [])
    (session,) = json.loads((repository / "run" / "run.json").read_text())["sessions"]
    assert session["versions"]["torch"] == version("torch")
    assert session["commits"]["working_directory"] == git(repository, "rev-parse", "HEAD")
