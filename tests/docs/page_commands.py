"""The shell commands of the pages, and whether a line beside them says that the tests do not run them."""

import re
from dataclasses import dataclass

from command_line import ROOT

FENCED = re.compile(r"^(?P<fence>`{3,}|~{3,})(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ ]*$", re.M | re.S)
INDENTED = re.compile(r"(?<=\n\n)(?P<text>(?: {4}\S[^\n]*\n)+)")
SHELL = ("", "sh", "bash", "console")
PROGRAMS = (
    *("make", "python", "python3", "pip", "hf", "rence-lightning", "lm-eval", "lighteval", "torchrun", "srun"),
    *("git", "cp", "mkdir", "sed", "source"),
)
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\.venv[\w-]*/bin/\S+|{'|'.join(PROGRAMS)}) \S")
PLACEHOLDER = re.compile(r"<[a-z][a-z ]*>|--key\.sub=value")
MARK = re.compile(r"\*(?:Not run|Run)\b[^*]*\*")


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: Name of the page.
        text: The command in one line, without its comment.
        marked: Whether a line in italics beside its block says that, or why, the tests do not run it.
    """

    page: str
    text: str
    marked: bool


def commands_of(page: str, text: str) -> list[Command]:
    """The commands of a page, in order; those with a placeholder such as `<this repository>` are none.

    A mark is a paragraph in italics directly before or after the block that begins with *Not run* or *Run*.
    """
    found = []
    for block in sorted([*FENCED.finditer(text), *_indented(text)], key=lambda match: match.start()):
        if block.groupdict().get("language", "").strip() in SHELL:
            before, after = text[: block.start()].rstrip("\n"), text[block.end() :].lstrip("\n")
            beside = (before[before.rfind("\n\n") + 1 :].strip(), after.split("\n\n")[0].strip())
            marked = any(MARK.fullmatch(paragraph) for paragraph in beside)
            found += [Command(page, line, marked) for line in _lines(block["text"])]
    return found


def all_commands() -> list[Command]:
    """The commands of README.md and of all pages in `docs/`."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [command for page in pages for command in commands_of(page.name, page.read_text(encoding="utf-8"))]


def _indented(text: str) -> list[re.Match[str]]:
    fenced = [match.span() for match in FENCED.finditer(text)]
    return [match for match in INDENTED.finditer(text) if not any(start < match.start() < end for start, end in fenced)]


def _lines(block: str) -> list[str]:
    joined = re.sub(r" *\\\n\s*", " ", block)
    lines = (" ".join(line.split(" #")[0].split()) for line in joined.splitlines())
    return [line for line in lines if COMMAND.match(line) and not PLACEHOLDER.search(line)]
