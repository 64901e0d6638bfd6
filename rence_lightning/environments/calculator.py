"""A calculator that a policy may call within its turn."""

import ast
import operator
from collections.abc import Callable
from fractions import Fraction

from rence_lightning.environments.environment import Environment

ARITHMETIC, LONGEST = "0123456789+-*/(). ", 100
"""Characters of an expression, and the largest number of them."""

_OPERATIONS: dict[type[ast.AST], Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


class Calculator(Environment):
    """Continues `<<76+4>>` with `80`, and what is not arithmetic with `error`.

    Args:
        begin: Text before an expression. If it is empty, the arithmetic in front of `end` is the expression.
        end: Text after an expression, in ASCII. Where no expression is in front of it, the policy goes on.
    """

    blocks = False

    def __init__(self, begin: str = "<<", end: str = ">>") -> None:
        self.begin, self.stop = begin, (end,)

    def reply(self, turn: str) -> str | None:
        before, ended, _ = turn.rpartition(self.stop[0])
        if not ended:
            return None  # the policy has ended its response
        if self.begin:
            _, found, expression = before.rpartition(self.begin)
        else:
            found = expression = before[len(before.rstrip(ARITHMETIC)) :]
        if not found:
            return ""
        try:
            arithmetic = len(expression) <= LONGEST and set(expression) <= set(ARITHMETIC)
            value = _value(ast.parse(expression.strip() if arithmetic else "", mode="eval"))
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            return "error"
        return str(value) if value.denominator == 1 else f"{float(value):.6g}"


def _value(node: ast.AST) -> Fraction:
    """The value of an expression of numbers; a `ValueError` for anything else."""
    match node:
        case ast.Expression(body=body):
            return _value(body)
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Fraction(str(number))
        case ast.UnaryOp(op=operation, operand=operand) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_value(operand))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_value(left), _value(right))
    raise ValueError("not arithmetic")
