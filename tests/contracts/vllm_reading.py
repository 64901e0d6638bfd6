"""Looks for names in Python sources by reading them, without importing them."""

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Requirement:
    """A thing that a file of sources must have.

    Attributes:
        path: Path of the file, from the folder of the sources.
        of: Function, class or variable that the thing belongs to, by its path within the file; None for the file.
        name: Name of the thing; None if `of` itself is required.
    """

    path: str
    of: str | None
    name: str | None

    def holds(self, tree: ast.Module) -> bool:
        raise NotImplementedError

    def problem(self, sources: Path) -> str | None:
        """What is missing in the sources, None if they have the thing."""
        file = sources / self.path
        if not file.is_file():
            return f"{self.path} is missing (it should have {self})"
        return None if self.holds(_parsed(file.read_text())) else f"{self.path} has no {self}"

    def __str__(self) -> str:
        return " ".join(str(part) for part in (type(self).__name__.lower(), self.name, "of", self.of) if part)


class Parameter(Requirement):
    """A parameter of a function."""

    def holds(self, tree: ast.Module) -> bool:
        function = _find(tree, self.of)
        if not isinstance(function, ast.FunctionDef):
            return False
        arguments = function.args
        return self.name in {None, *(each.arg for each in (*arguments.args, *arguments.kwonlyargs))}


class Returns(Requirement):
    """The annotation of what a function returns."""

    def holds(self, tree: ast.Module) -> bool:
        function = _find(tree, self.of)
        return (
            isinstance(function, ast.FunctionDef)
            and function.returns is not None
            and ast.unparse(function.returns) == self.name
        )


class Field(Requirement):
    """A field of a class: in its body, or set by one of its methods on `self`."""

    def holds(self, tree: ast.Module) -> bool:
        owner = _find(tree, self.of)
        if owner is None:
            return False
        own = {name for statement in owner.body for name in _names(statement)}
        set_by_methods = {
            node.attr
            for node in ast.walk(owner)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
        }
        return self.name in own | set_by_methods


class Value(Requirement):
    """A text among the values of a variable, such as a Literal, a tuple or a dictionary's keys."""

    def holds(self, tree: ast.Module) -> bool:
        value = _value(tree, self.of)
        return value is not None and self.name in {
            node.value for node in ast.walk(value) if isinstance(node, ast.Constant)
        }


class Key(Requirement):
    """A key of a dictionary."""

    def holds(self, tree: ast.Module) -> bool:
        value = _value(tree, self.of)
        return isinstance(value, ast.Dict) and self.name in {
            key.value for key in value.keys if isinstance(key, ast.Constant)
        }


class Exports(Requirement):
    """A name that a package gives to those who import from it, at once or when it is used."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path, None, name)

    def holds(self, tree: ast.Module) -> bool:
        value = _value(tree, "__all__")
        return value is not None and self.name in {
            node.value for node in ast.walk(value) if isinstance(node, ast.Constant)
        }


class Mentions(Requirement):
    """A name or a text within a function, in its code and not in its documentation."""

    def holds(self, tree: ast.Module) -> bool:
        function = _find(tree, self.of)
        if function is None or self.name is None:
            return False
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        nodes = [node for statement in body for node in ast.walk(statement)]
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {node.id for node in nodes if isinstance(node, ast.Name)}
        return self.name in names or any(re.search(rf"(?<!\w){re.escape(self.name)}(?!\w)", text) for text in texts)


@dataclass(frozen=True)
class Calls(Requirement):
    """A call within a function, with a certain argument.

    Attributes:
        argument: The argument, as it is written.
    """

    argument: str = ""

    def holds(self, tree: ast.Module) -> bool:
        function = _find(tree, self.of)
        for node in ast.walk(function) if function is not None else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == self.name:
                given = [ast.unparse(each) for each in node.args]
                given += [f"{each.arg}=" if each.arg else f"**{ast.unparse(each.value)}" for each in node.keywords]
                if self.argument in given:
                    return True
        return False


@lru_cache(maxsize=1)  # the requirements of a file follow one another
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _find(tree: Node, way: str | None) -> Node | None:
    """The function or class at the end of a way such as `LLM.__init__`; the last definition where there are several."""
    found: Node = tree
    for step in way.split(".") if way is not None else ():
        inside = [
            node
            for node in found.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == step
        ]
        if not inside:
            return None
        found = inside[-1]
    return found


def _names(statement: ast.stmt) -> list[str]:
    """The names that a statement in the body of a class defines."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _value(tree: ast.Module, name: str | None) -> ast.expr | None:
    """What is assigned to a variable of the file."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return value
            case ast.AnnAssign(target=ast.Name(id=found), value=value) if found == name:
                return value
    return None
