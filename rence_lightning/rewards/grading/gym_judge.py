"""Grades answers by the `score_answer` of reasoning-gym's data sets, in a grading worker alone.

Some of these methods execute the text of an answer: `eval` in a few modules, sympy's `parse_expr` in others. Here the
first reads literals only, and the second expressions of numbers, symbols of one letter and a list of functions.
"""

import ast
import json
import math
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rence_lightning.json_values import from_json

_FUNCTIONS = (
    *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh"),
    *("atanh", "exp", "log", "ln", "sqrt", "Abs", "pi", "Integer", "Rational", "Float"),
)
_EXPRESSION = re.compile(
    rf"(?:[0-9]++(?:\.[0-9]*+)?+(?:[eE][+-]?[0-9]++)?+|\.[0-9]++|(?:{'|'.join(_FUNCTIONS)}|[A-Za-z])(?![A-Za-z0-9_])"
    r"|[\s+\-*/^(),]++)*+"
)
_WORD = re.compile(r"[A-Za-z_]++")
"""A name alone, which calls nothing: sympy's own modules define units by name while they are imported."""


def load_judge() -> Callable[[str, str], float]:
    """Imports reasoning-gym and restricts what its grading executes in this process, for good.

    Returns:
        A function of the problem, `{"task": ..., "settings": ..., "entry": ...}` as JSON, and of an answer.

    Raises:
        AttributeError: If sympy no longer has the restricted function, so that nothing is graded without the guard.
    """
    import reasoning_gym  # noqa: F401 (registers the data sets)
    from sympy.parsing import sympy_parser

    to_source = sympy_parser.stringify_expr

    def expressions_only(text: str, *arguments: Any) -> str:
        if not (_EXPRESSION.fullmatch(text) or _WORD.fullmatch(text.strip())):
            raise ValueError(f"{text[:80]!r} is not an expression of numbers and variables and is not evaluated")
        return str(to_source(text, *arguments))

    sympy_parser.stringify_expr = expressions_only
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym":
            module.eval = ast.literal_eval  # type: ignore[attr-defined]
    return _grade


def _grade(problem: str, answer: str) -> float:
    """The score of an answer in [0, 1]; an answer on which `score_answer` fails has 0."""
    request = json.loads(problem)
    try:
        score = float(
            _data_set(request["task"], json.dumps(request["settings"])).score_answer(
                answer, from_json(request["entry"])
            )
        )
    except Exception:  # score_answer fails on text that it does not understand, in as many ways as there are tasks
        return 0.0
    return score if math.isfinite(score) and 0 <= score <= 1 else 0.0


@lru_cache(maxsize=256)
def _data_set(task: str, settings: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(task, **json.loads(settings), seed=0, size=1)
