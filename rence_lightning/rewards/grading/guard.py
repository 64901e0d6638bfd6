r"""Keeps the text of an answer from being executed in a grading worker.

math-verify reads LaTeX with a grammar and evaluates nothing itself, but two functions of sympy, which it calls, execute
source text that is made from an answer:

* `parse_expr` evaluates its argument. `sympy.Number("1.5")` calls it for every number, and math-verify for arithmetic
  such as `(1+2)/3`.
* `lambdify` compiles an expression in which the names of symbols stand as they are. sympy calls it to evaluate an
  infinite sum numerically, and `\overline{...}` makes a symbol of any characters, so that a sum with such a symbol
  executes them.

`forbid_execution` restricts the first to numbers, and the second to expressions of one variable with a plain name.
`forbid_effects` is a second line of defence: it stops the process from starting programs, opening sockets and changing
files.
"""

import os
import re
import sys
from typing import Any

_NUMBER = r"[0-9]++\.?+[0-9]*+(?:[eE][+-]?[0-9]++)?+|\.[0-9]++(?:[eE][+-]?[0-9]++)?+"
ARITHMETIC = re.compile(rf"(?:{_NUMBER}|[\s+\-*/()]++)*+|\s*+[A-Za-z]++\s*+")
"""Arithmetic of numbers, or a name alone, which calls nothing: sympy's modules define units by name."""

_NAMES = (
    "sin|cos|tan|sec|csc|cot|asin|acos|atan|sinh|cosh|tanh|asinh|acosh|atanh|exp|log|ln|sqrt|Abs|pi|Integer|Rational"
    "|Float|[A-Za-z]"
)
EXPRESSION = re.compile(rf"(?:{_NUMBER}|(?:{_NAMES})(?![A-Za-z0-9_])|[\s+\-*/^(),]++)*+|\s*+[A-Za-z_]++\s*+")
"""Expressions of numbers, variables of one letter and known functions, or a name alone, for reasoning-gym."""

_EFFECTS = (
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"),
    *("shutil.rmtree", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def forbid_execution() -> None:
    """Changes sympy, in this process, so that it executes no text of an answer.

    Raises:
        AttributeError: If sympy no longer has these functions, so that a worker never runs without the guard.
    """
    from sympy import Basic, Symbol
    from sympy.core.evalf import lambdify as original
    from sympy.core.function import AppliedUndef
    from sympy.core.symbol import Str

    def one_variable_only(variable: Any, expression: Any, modules: Any = "math", **options: Any) -> Any:
        plain = isinstance(variable, Symbol) and variable.name.isidentifier() and isinstance(expression, Basic)
        if not plain or expression.atoms(AppliedUndef) or not expression.atoms(Symbol, Str) <= {variable}:
            # Where sympy sums a series, it goes on with another method after this error.
            raise NotImplementedError("a grading worker compiles nothing but functions of one variable")
        return original(variable, expression, modules, **options)

    restrict_sympy(ARITHMETIC)
    # `sympy.utilities` exports a function with the name of its module, hence by way of `sys.modules`. Modules of sympy
    # that are imported later find the restricted function in the first place.
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "sympy" and getattr(module, "lambdify", None) is original:
            module.lambdify = one_variable_only  # type: ignore[attr-defined]


def restrict_sympy(allowed: re.Pattern[str]) -> None:
    """Lets sympy's parser evaluate nothing but texts of this form, in this process."""
    from sympy.parsing import sympy_parser

    to_source = sympy_parser.stringify_expr

    def allowed_only(text: str, *arguments: Any) -> str:
        if not allowed.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is not arithmetic or a known function, and is not evaluated")
        return str(to_source(text, *arguments))

    sympy_parser.stringify_expr = allowed_only


def forbid_effects() -> None:
    """Refuse, for the rest of this process, to start programs, to open sockets and to change files."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if writes or event in _EFFECTS:
            raise PermissionError(f"a grading worker may not do this: {event}")

    sys.addaudithook(refuse)
