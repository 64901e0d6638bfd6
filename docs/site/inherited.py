"""The arguments of a class in the reference where its base class documents them: that whose `__init__` it has."""

import re
from collections.abc import Iterator
from typing import Any

from griffe import Class, Extension, GriffeLoader, Module, Object

ARGUMENTS = re.compile(r"^Args:\n(?:(?: .*)?\n?)+", re.M)


class InheritedArguments(Extension):
    """Adds the section `Args` of the nearest base class that has one to a class without an `__init__` of its own."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs: Any) -> None:
        """Changes the docstrings of a package that was loaded."""
        for each in list(_classes(pkg)):
            if each.docstring and "__init__" not in each.members and not ARGUMENTS.search(each.docstring.value):
                bases = [base.docstring.value for base in each.mro() if base.docstring]
                found = next(filter(None, map(ARGUMENTS.search, bases)), None)
                each.docstring.value += f"\n\n{found[0].rstrip()}" if found else ""


def _classes(module: Object) -> Iterator[Class]:
    for member in module.members.values():
        if not member.is_alias and isinstance(member, Module):
            yield from _classes(member)
        elif not member.is_alias and isinstance(member, Class):
            yield member
