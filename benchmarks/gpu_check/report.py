"""The report of the check: one Markdown file that can be sent, without secrets or personal paths."""

import getpass
import os
import re
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.launch import ROOT
from benchmarks.gpu_check.parts import Part
from benchmarks.gpu_check.runner import Outcome
from benchmarks.markdown import table

SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""Names of environment variables whose values are removed from the report."""

SECRETS = re.compile(r"\b(hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[bp]-|AKIA)[\w-]{8,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
"""Keys of usual forms, and user names with passwords in addresses."""

SHORTEST_SECRET = 6
"""Values of fewer characters are not removed, because they occur in ordinary text."""


def render(
    parts: Sequence[Part], outcomes: dict[str, Outcome], about: dict[str, str], arguments: dict[str, Any]
) -> str:
    """The report.

    Args:
        parts: Parts of the check, in their order.
        outcomes: Outcomes by name; parts that have not run are absent.
        about: Versions and devices, by name.
        arguments: Arguments of the check, by name.
    """
    rows = [
        [part.name, outcomes[part.name].verdict, f"{outcomes[part.name].seconds:.0f}", part.proves]
        for part in parts
        if part.name in outcomes
    ]
    missing = [part.name for part in parts if part.name not in outcomes]
    sections = [
        "# GPU check of rence_lightning",
        *(["**A rehearsal on a CPU: nothing below was checked on a GPU.**"] if arguments.get("cpu") else []),
        summary(parts, outcomes),
        table(["part", "verdict", "seconds", "what it proves on a GPU"], rows),
        *([f"Not run yet: {', '.join(missing)}."] if missing else []),
        "## Environment",
        table(["what", "value"], [[name, _cell(value)] for name, value in {**about, **arguments}.items()]),
        *(section for part in parts if part.name in outcomes for section in _section(outcomes[part.name], about)),
    ]
    return clean("\n\n".join(sections))


def summary(parts: Sequence[Part], outcomes: dict[str, Outcome]) -> str:
    """The verdict of the whole check, in one line."""
    names = {verdict: [o.name for o in outcomes.values() if o.verdict == verdict] for verdict in ("FAIL", "skipped")}
    passed = sum(outcome.verdict == "pass" for outcome in outcomes.values())
    words = [f"{passed} of {len(parts)} parts passed"]
    words += [f"{verdict}: {', '.join(each)}" for verdict, each in names.items() if each]
    return "; ".join(words) + "."


def _section(outcome: Outcome, about: dict[str, str]) -> list[str]:
    stale = [name for name, value in about.items() if outcome.fingerprint.get(name, value) != value]
    sections = [f"## {outcome.name}: {outcome.verdict}"]
    if stale:
        sections.append(f"This part ran before a change of: {', '.join(stale)}.")
    if outcome.reasons:
        sections.append("\n".join(f"- {reason}" for reason in outcome.reasons))
    if outcome.figures:
        sections.append(table(["figure", "value"], [[name, _cell(value)] for name, value in outcome.figures.items()]))
    if outcome.skipped:
        sections.append("\n".join(f"- skipped, {name}: {reason}" for name, reason in outcome.skipped.items()))
    if outcome.tail:
        sections.append(f"Last lines of its output:\n\n````text\n{outcome.tail.replace('````', '` ` ` `')}\n````")
    return sections


def shown(value: Any) -> str:
    """A figure as text."""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _cell(value: Any) -> str:
    return shown(value).replace("|", "\\|").replace("\n", "<br>")


def clean(text: str) -> str:
    """Text without the values of secret environment variables, keys of usual forms, personal paths and names."""
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    text = SECRETS.sub("***", text)
    folders = {str(ROOT): ".", sys.prefix: "(environment)", sys.base_prefix: "(python)", tempfile.gettempdir(): "(tmp)"}
    folders[str(Path.home())] = "~"
    for folder in sorted(folders, key=len, reverse=True):
        text = re.sub(rf"{re.escape(folder)}(?=/|\b)", folders[folder], text) if len(folder) > 1 else text
    text = re.sub(r"/(home|Users)/[^/\s'\"]+", "~", text)
    for name, stand_in in ((socket.gethostname(), "(host)"), (_user(), "(user)")):
        text = re.sub(rf"\b{re.escape(name)}\b", stand_in, text) if len(name) > 2 and name != "root" else text
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""
