"""Pages of the site that come from files of the repository outside `docs/`, and links to them.

Pages link as they do on GitHub, relative to the file that they are in. On the site, README, changelog and contribution
guide are pages, a room of the package is its API page, and any other file is a page that shows its text.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "readme.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository that are pages of the site."""

LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".md": "markdown", ".j2": "jinja"}
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?((?:\s+\"[^\"]*\")?\))")
CODE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2 *$|`[^`\n]+`", re.M | re.S)
"""Fenced blocks and spans of code, in which nothing is a link."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of README, changelog and contribution guide, of the package's code, and of files linked to.

    Raises:
        PluginError: A page links to a file outside `docs/` that is not text.
    """
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    package = ROOT / "rence_lightning"
    folders = [package, *sorted(folder for folder in package.iterdir() if folder.is_dir())]
    sources = {path for folder in folders[1:] for path in folder.rglob("*.py")} | set(package.glob("*.py"))
    wanted = {str(path.relative_to(ROOT)): "the package" for path in sources}
    for file in files.documentation_pages():
        for link in LINK.finditer(CODE.sub("", file.content_string)):
            target = _in_repository(file.src_uri, link[2])
            if target and _page_of(target) == _source_page(target):
                wanted.setdefault(target, file.src_uri)
    for path, origin in sorted(wanted.items()):
        files.append(File.generated(config, _source_page(path), content=_shown(path, origin)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository into links to their pages."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown

    def rewritten(link: re.Match[str]) -> str:
        target = _in_repository(here, link[2])
        to = _page_of(target) if target else None
        if to is None:
            return link[0]
        return f"{link[1]}{os.path.relpath(to, PurePosixPath(here).parent)}{link[3] or ''}{link[4]}"

    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [LINK.sub(rewritten, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(rewritten, markdown[end:])])


def _in_repository(page: str, link: str) -> str | None:
    """The path, from the root of the repository, that a link of a page leads to; None if it leads elsewhere."""
    if re.match(r"\w+:", link):
        return None
    origin = next((path for path, name in PAGES.items() if name == page), f"docs/{page}")
    path = os.path.normpath(PurePosixPath(origin).parent / link)
    return path if (ROOT / path).exists() else None


def _page_of(path: str) -> str | None:
    """The page, or the file of `docs/`, that stands for a path of the repository."""
    room = path.removesuffix("/__init__.py").removeprefix("rence_lightning/")
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path != room and (ROOT / "rence_lightning" / room / "__init__.py").exists() and "/" not in room:
        return f"api/{room}.md"
    return _source_page(path) if (ROOT / path).is_file() else None


def _source_page(path: str) -> str:
    return f"source/{path}.md"


def _shown(path: str, origin: str) -> str:
    """A page with the text of a file that `origin` links to, which the search does not look through."""
    try:
        text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    except UnicodeDecodeError as error:
        raise PluginError(f"{origin}: the link to {path} leads to a file that is not text; move it to docs/") from error
    language = LANGUAGES.get(Path(path).suffix, "text")
    hidden = "search:\n  exclude: true\nhide:\n  - navigation\n  - toc"
    return f'---\n{hidden}\n---\n\n# `{path}`\n\n~~~~~~ {{.{language} linenums="1"}}\n{text}\n~~~~~~\n'
