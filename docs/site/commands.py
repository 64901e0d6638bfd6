"""The page of the command line, from the help of its commands."""

import os
import re
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from rence_lightning.cli.commands import COMMANDS
from rence_lightning.cli.main import main

SECTION = re.compile(r"^(\w[\w ]*):(?: (.+):)?\n(?=  )", re.M)
COLUMNS = "84"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `commands.md`."""
    files.append(File.generated(config, "commands.md", content=_page()))
    return files


@cache
def _page() -> str:
    parts = ["# Commands", "What each command prints with `--help`."]
    for name in COMMANDS:
        parts += [f"## {name}", *_sections(_help(name)), ""]
    return "\n\n".join(parts)


def _help(name: str) -> str:
    text = StringIO()
    with redirect_stdout(text), patch.dict(os.environ, COLUMNS=COLUMNS), suppress(SystemExit):
        main([name, "--help"])
    return text.getvalue()


def _sections(text: str) -> list[str]:
    """The help as blocks of text; each section of the configuration has a heading of its own."""
    starts = [match for match in SECTION.finditer(text) if match[2]]
    ends = [*(match.start() for match in starts), len(text)][1:]
    parts = [_block(text[: starts[0].start()] if starts else text)]
    for start, end in zip(starts, ends, strict=True):
        parts += [f"### {start[1]}", f"{start[2]}.", _block(text[start.end() : end])]
    return parts


def _block(text: str) -> str:
    return f"~~~~ text\n{text.strip(chr(10)).rstrip()}\n~~~~"
