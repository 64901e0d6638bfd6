"""Looks for names in Python sources by reading them, without importing them."""

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Requirement:
    """Something that the code of a definition says, outside its documentation and comments.

    Attributes:
        path: Path of the file, from the folder of the sources.
        of: Function, class or variable, by its path within the file.
        name: What its code says, as whole words: the name of a parameter, a field, a value, a function it calls.
    """

    path: str
    of: str
    name: str

    def problem(self, sources: Path) -> str | None:
        """What is missing in the sources, None if they have the thing."""
        file = sources / self.path
        if not file.is_file():
            return f"{self.path} is missing (its {self.of} should say {self.name})"
        code = _code(_parsed(file.read_text()), self.of)
        if code is not None and re.search(rf"(?<![\w\\]){re.escape(self.name)}(?!\w)", code):
            return None
        return f"{self.path}: {self.of} " + ("is missing" if code is None else f"does not say {self.name}")


@lru_cache(maxsize=1)  # the requirements of a file follow one another
def _parsed(text: str) -> ast.Module:
    """A file without its documentation; comments are no part of a tree."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _code(tree: ast.Module, way: str) -> str | None:
    """The code of the definition at the end of a way such as `LLM.__init__`; the last where there are several."""
    found: ast.AST = tree
    for step in way.split("."):
        inside = [node for node in getattr(found, "body", ()) if step in _defined(node)]
        if not inside:
            return None
        found = inside[-1]
    return ast.unparse(found)


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []
