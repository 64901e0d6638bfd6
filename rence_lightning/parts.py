r"""What several folders use: a problem, the answer in a `\boxed{...}`, the base class of parts, worker processes."""

import hashlib
import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

VERSION = "0.3.0"


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
        solution: Worked response, on which `warmup` trains; None where there is none.
    """

    id: str
    problem: str
    answer: str
    source: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    messages: Sequence[Mapping[str, str]] = field(default=(), hash=False)
    system: str | None = None
    template: str | None = None
    solution: str | None = None


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


# One scan from left to right. `\\`, `\{` and `\}` are consumed first, so that an escaped brace opens or closes nothing.
# The lookbehind accepts `\\boxed{` as a box, because models that quote LaTeX double the backslash.
_TOKEN = re.compile(r"(?<=\\)boxed\s*+\{|\\[\\{}]|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced `\boxed{...}` of `text`, or None when there is none.

    The rules by example:

    - `\boxed{1} so \boxed{2}` gives `2`: the box that *opens* last wins, hence `\boxed{\boxed{3}+1}` gives `3`.
    - `\boxed{1} so \boxed{2` gives `1`: a box that is never closed (in a truncated response) is ignored.
    - `\boxed{\{1, 2\}}` gives `\{1, 2\}`: escaped braces do not count, `\\` is a line break and escapes nothing.
    - `\boxed {4}` gives `4`, as in LaTeX. `\boxed 4` and `\fbox{4}` are not what the prompt asks for and are no boxes.
    - `\boxed{}` gives the empty string: a box without an answer.

    The content is returned unchanged, with its blanks. Time and memory are linear in the length of the text.
    """
    open_braces: list[tuple[int, bool]] = []  # (start of the content, whether a box opened it)
    start, stop = -1, -1
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "}":
            if open_braces:
                begin, is_box = open_braces.pop()
                if is_box and begin > start:
                    start, stop = begin, token.start()
        elif symbol[0] != "\\":
            open_braces.append((token.end(), symbol != "{"))
    return text[start:stop] if start >= 0 else None


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, and is uniform over texts: to divide data into fixed parts."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def python_process(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a process that runs a module of this package, on one thread.

    It imports the same code as its parent, and nothing from the current directory. Its hash seed is fixed, so that the
    order of sets of text is the same in every process: sympy's verdicts and reasoning-gym's problems depend on it.
    """
    paths = [*(str(Path(path).resolve()) for path in sys.path), str(Path(__file__).resolve().parents[1])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    fixed = {**threads, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHASHSEED": "0"}
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, **fixed}
