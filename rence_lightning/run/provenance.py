"""What a run was made with: versions of the packages, and commits of the git repositories around it."""

import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rence_lightning.parts import VERSION

PACKAGES = ("torch", "transformers", "lightning", "vllm")
"""Packages besides this one on which the figures of a run depend; those that are not installed are left out."""

PACKAGE = Path(__file__).parents[1]


def provenance(working_directory: Path) -> dict[str, dict[str, str]]:
    """For `run.json`: `versions` by package; `commits` of the repository around the working directory, which holds the
    user's own parts, and of the one that tracks this package, where there are any."""
    versions = {"rence_lightning": VERSION}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    commits = {"working_directory": commit_of(working_directory)}
    if _git(PACKAGE, "ls-files", "__init__.py"):  # a package installed inside of the user's repository is not tracked
        commits["rence_lightning"] = commit_of(PACKAGE)
    return {"versions": versions, "commits": {where: commit for where, commit in commits.items() if commit}}


def commit_of(folder: Path) -> str:
    """The commit of the git repository around a folder, empty without one; with `-dirty` if tracked files differ from
    it, and with `-unchecked` if git could not tell in time."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-unchecked" if changed is None else f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command; None where it fails, because git or the repository is missing, or it takes long."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
