"""Code of the repository in a page, by name: a link alone in its paragraph whose title is "source".

    [`Trainer.fit`](../rence_lightning/training/trainer.py "source")
    [`multi_label_nce`](../rence_lightning/objectives/nce.py "source without docstring")

On GitHub it is a link to the file. On the site the code follows it, read when the site is built.
"""

import ast
import re
import textwrap
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

INCLUDE = re.compile(r'^\[`([\w.]+)`\]\((\S+\.py) "source( without docstring)?"\)$', re.M)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adds the code to the links that ask for it.

    Raises:
        PluginError: A file or a name does not exist.
    """

    def with_code(link: re.Match[str]) -> str:
        path = Path(config.docs_dir, page.file.src_uri).parent / link[2]
        try:
            code = source(path, link[1], docstring=not link[3])
        except (OSError, KeyError) as error:
            raise PluginError(f"{page.file.src_uri}: no {link[1]} in {link[2]}") from error
        return f"[`{link[1]}`]({link[2]})\n\n```python\n{code}\n```"

    return INCLUDE.sub(with_code, markdown)


def source(path: Path, name: str, docstring: bool = True) -> str:
    """The text of a function, class, method or constant of a file.

    Args:
        path: The Python file.
        name: The qualified name, such as `Trainer.fit`.
        docstring: Whether its docstring is part of it.

    Raises:
        KeyError: The file has no such name.
    """
    text = path.read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = _members(node)[part]
    assert isinstance(node, ast.stmt) and node.end_lineno is not None
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    lines = dict(enumerate(text.splitlines()[first - 1 : node.end_lineno], start=first))
    documented = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node)
    if documented and not docstring:
        said = node.body[0]  # type: ignore[attr-defined]
        for number in range(said.lineno, said.end_lineno + 1):
            del lines[number]
    return textwrap.dedent("\n".join(lines.values()))


def _members(node: ast.AST) -> dict[str, ast.AST]:
    members: dict[str, ast.AST] = {}
    for each in getattr(node, "body", []):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            members[each.name] = each
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            members |= {target.id: each for target in targets if isinstance(target, ast.Name)}
    return members
