"""Paths and keys in tables break after a slash, a dot or an underscore, and not inside a word."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

TABLE = re.compile(r"<table>.*?</table>", re.S)
CODE = re.compile(r"<code>([^<>]+)</code>")


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Marks the places at which the code in the tables of a page may break."""

    def breakable(code: re.Match[str]) -> str:
        return "<code>" + re.sub(r"(?<=\w)([/._])(?=\w)", r"\1<wbr>", code[1]) + "</code>"

    return TABLE.sub(lambda table: CODE.sub(breakable, table[0]), content)
