"""What the parts of a run have in common: problems, and a base class of what a configuration names by `class_path`."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Problem:
    """One row of a data set.

    Attributes:
        id: Identifier in caches, logs and checkpoints, unique within its source and the same in every run.
        problem: Text of the problem, without instructions or template.
        answer: Final answer without its solution; never empty in the sources of this project.
        source: Name of the data set.
        fields: All columns of the row by name, as the data set has them, such as `difficulty`. Rewards and filters may
            read them; the policy sees none of them.
        messages: Turns of a chat, `{"role": ..., "content": ...}`, that replace the template's; empty for none.
        system: System turn of this problem, in place of the template's; None for the template's.
        template: Instructions of this problem, in place of the template's text; None for the template's.
    """

    id: str
    problem: str
    answer: str
    source: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    messages: Sequence[Mapping[str, str]] = field(default=(), hash=False)
    system: str | None = None
    template: str | None = None


class _RemembersArguments:
    """Keeps what the constructor of an object was given, whatever the constructor does with it."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        part = super().__new__(cls)
        object.__setattr__(part, "_given", (args, settings))  # also where the class is a frozen dataclass
        return part


class Configurable(_RemembersArguments):
    """Base class of the parts of a run: it remembers the arguments that an object was built with.

    A run that is given an object writes it to its `config.yaml` as the object's class and these arguments, so that the
    command line can build it again.
    """

    def __init__(self) -> None:  # so that a class without a constructor has this signature, and not that of __new__
        pass

    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor by name, with the defaults of those that were not given; a `TypeError` if it
        was given arguments that have no name."""
        args, settings = self.__dict__["_given"]
        signature = inspect.signature(type(self).__init__)
        bound = signature.bind(self, *args, **settings)
        bound.apply_defaults()
        named: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                named |= value
            elif kind is not inspect.Parameter.VAR_POSITIONAL:
                named[name] = value
            elif value:
                raise TypeError(f"{type(self).__name__}: {len(value)} arguments have no name")
        return named
