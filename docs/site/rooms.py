"""The pages of the API, one for each room in the navigation, and links from names in backticks to their entries."""

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

PACKAGE = Path(__file__).resolve().parents[2] / "rence_lightning"
NAME = re.compile(r"(<(pre|h\d|a|autoref|summary)\b.*?</\2>)|<code>([A-Za-z_][\w.]*)(\(\))?</code>", re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages.

    Raises:
        PluginError: The navigation names a room whose module does not exist, or has no docstring.
    """
    rows = []
    for page in _pages(config.nav):
        room = page.removeprefix("api/").removesuffix(".md")
        names = ", ".join(f"`{name}`" for name in public_names(room))
        rows.append(f"| [{_module(room)}]({room}.md) | {_about(room)} | {names} |")
        files.append(File.generated(config, page, content=_entries(room)))
    index = ["# API reference", "", "| module | what it has | names |", "|---|---|---|", *rows]
    files.append(File.generated(config, "api/index.md", content="\n".join(index) + "\n"))
    return files


def _entries(room: str) -> str:
    """The page of a room: its docstring, then an entry for each public name, wherever it is defined."""
    module = _module(room)
    parts = [f"# {module}", f"::: {module}\n    options: {{members: false}}"]
    return "\n\n".join([*parts, *(_entry(module, name) for name in public_names(room))]) + "\n"


def _entry(module: str, name: str) -> str:
    """The entry of a name. A function that has the name of its own file would be taken for the file."""
    shown = "show_root_heading: true, show_root_toc_entry: true, heading_level: 2"
    files = (PACKAGE.parent / module.replace(".", "/")).glob("*.py")
    if name not in {file.stem for file in files}:
        return f"::: {module}.{name}\n    options: {{{shown}}}"
    headed = f"{shown}, heading: {module}.{name}, toc_label: {name}"
    return f"[](){{#{module}.{name}}}\n\n::: {module}.{name}.{name}\n    options: {{{headed}}}"


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links each public name in backticks that has a capital and a small letter, an underscore, or all dots.

    A name that two rooms have is linked only where it is given in full, and in those rooms.
    """
    if page.file.src_uri.startswith("source/"):
        return content
    here = page.file.src_uri.removeprefix("api/").removesuffix(".md")
    entries: dict[str, set[str]] = {}
    for source in _pages(config.nav):
        room = source.removeprefix("api/").removesuffix(".md")
        for name in public_names(room):
            url = f"{files.src_uris[source].url}#{_module(room)}.{name}"
            entries[f"{_module(room)}.{name}"] = {url}
            if re.search(r"_|[A-Z]", name):
                entries.setdefault(name, set()).add(url)
                if room == here:
                    entries[name] = {url}

    def linked(found: re.Match[str]) -> str:
        urls = entries.get(found[3] or "", set())
        if found[1] or len(urls) != 1:
            return found[0]
        url, _, anchor = next(iter(urls)).partition("#")
        return f'<a href="{get_relative_url(url, page.url)}#{anchor}">{found[0]}</a>'

    return NAME.sub(linked, content)


def public_names(room: str) -> list[str]:
    """The names in `__all__` of a room, or of the package itself."""
    for node in _tree(room).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _pages(nav: object) -> list[str]:
    """The pages of rooms that a navigation names, in its order."""
    if isinstance(nav, dict):
        return _pages(list(nav.values()))
    if isinstance(nav, list):
        return [page for part in nav for page in _pages(part)]
    return [str(nav)] if str(nav).startswith("api/") and nav != "api/index.md" else []


def _module(room: str) -> str:
    return room if room == PACKAGE.name else f"{PACKAGE.name}.{room}"


def _about(room: str) -> str:
    if not (docstring := ast.get_docstring(_tree(room))):
        raise PluginError(f"mkdocs.yml: {_module(room)} has no docstring, whose first line says what is in it")
    return docstring.splitlines()[0]


def _tree(room: str) -> ast.Module:
    file = (PACKAGE if room == PACKAGE.name else PACKAGE / room) / "__init__.py"
    if not file.exists():
        raise PluginError(f"mkdocs.yml: api/{room}.md in the navigation has no module {_module(room)}")
    return ast.parse(file.read_text(encoding="utf-8"))
