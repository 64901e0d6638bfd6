"""Equations in MathML, which browsers show without a script or a font from elsewhere."""

import html
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)

SPACE = '<mspace width="0.167em"/>'


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Converts what the extension `arithmatex` has marked.

    Primes get a class, for fonts in which they are too small to see, and log gets a little space.

    Raises:
        PluginError: An equation has a command that is not known.
    """

    def mathml(found: re.Match[str]) -> str:
        display = "inline" if found[1] == "span" else "block"
        latex = html.unescape(found[3]).strip()
        try:
            result: str = convert(latex, display=display)
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: {latex!r} is not an equation: {error!r}") from error
        if unknown := re.search(r">\\[A-Za-z]+", result):
            raise PluginError(f"{page.file.src_uri}: {unknown[0][1:]} is not known, in {latex!r}")
        result = result.replace("<mi>&#x02032;</mi>", '<mi class="prime">&#x02032;</mi>')
        result = result.replace("<mi>log</mi>", f"<mrow>{SPACE}<mi>log</mi>{SPACE}</mrow>")
        return result if display == "inline" else f'<div class="equation">{result}</div>'

    return EQUATION.sub(mathml, content)
