"""Compares values relatively: math-verify compares so many decimal places that all tiny ones are equal."""

from typing import Any

_ROUNDED = 1e-3
"""Largest relative difference of a decimal from another value, beside equality in six decimal places."""

DIGITS, ELEMENTARY_DIGITS, RATIONAL_DIGITS = 100, 1_000, 5_000
"""Numbers of digits to which other values are compared: those of any functions, of elementary ones, rational ones."""


def verify_relatively(gold: Any, prediction: Any) -> bool:
    """Judges two readings by `math_verify.verify`, which must find their values equal relatively as well.

    Two of its functions compare all values, also those within sets and equations. They are replaced for the time of the
    call, so that only one thread of a process can make it.
    """
    from math_verify import grader

    numeric, symbolic = grader.sympy_numeric_eq, grader.sympy_symbolic_eq
    grader.sympy_numeric_eq = lambda one, other, *digits: numeric(one, other, *digits) and _agree(one, other)
    grader.sympy_symbolic_eq = lambda one, other: not _surely_differ(one, other) and symbolic(one, other)
    try:
        return bool(grader.verify(gold, prediction, timeout_seconds=None))
    finally:
        grader.sympy_numeric_eq, grader.sympy_symbolic_eq = numeric, symbolic


def _agree(one: Any, other: Any) -> bool:
    """Whether two values that math-verify holds for equal are equal relatively."""
    from math_verify.grader import is_atomic_or_pct_atomic as is_plain
    from sympy import Float, MatrixBase, Number

    if isinstance(one, MatrixBase):  # its elements were compared by this function
        return True
    if is_plain(one, Float) or is_plain(other, Float):
        one, other = _exact(one).evalf(30), _exact(other).evalf(30)
        return bool(abs(one - other) <= max(abs(one), abs(other)) * _ROUNDED)
    # Numbers without decimals were compared exactly.
    return is_plain(one, Number) or is_plain(other, Number) or same_value(one, other)


def _surely_differ(one: Any, other: Any) -> bool:
    """Whether two numbers differ, so that there is nothing to simplify, which may take minutes."""
    try:
        difference = _exact(one) - _exact(other)
        return difference.is_number and _digits(difference) > DIGITS and not same_value(one, other)
    except Exception:  # matrices, or what sympy cannot compute
        return False


def same_value(one: Any, other: Any) -> bool:
    """Whether two expressions have the same value, with arbitrary values of variables, and the imaginary unit `i`."""
    from sympy import I, Rational
    from sympy.core.function import AppliedUndef

    difference = _exact(one) - _exact(other)
    names = sorted(difference.free_symbols | difference.atoms(AppliedUndef), key=str)
    values = {name: I if str(name) == "i" else Rational(7**at + 4, 3) for at, name in enumerate(names, 1)}
    difference = difference.subs(values)
    # Where a difference cancels, sympy goes on to more digits, and says by a precision of 1 that none was left.
    parts = difference.evalf(2, maxn=_digits(difference)).as_real_imag()
    return all(part == 0 or getattr(part, "_prec", 0) == 1 for part in parts)


def _exact(expression: Any) -> Any:
    """An expression with decimals as fractions, and percents, which math-verify leaves unevaluated, as such."""
    from sympy import Float, Rational, UnevaluatedExpr

    expression = expression.replace(UnevaluatedExpr, lambda inside: inside)
    return expression.xreplace({number: Rational(str(number)) for number in expression.atoms(Float)})


def _digits(expression: Any) -> int:
    """The number of digits by form: sympy's own question, `is_rational`, factors polynomials for minutes."""
    from sympy import Add, Mul, Rational, factorial, preorder_traversal

    nodes = list(preorder_traversal(expression))
    rational = (Rational, Add, Mul, factorial)
    if all(isinstance(each, rational) or (each.is_Pow and each.exp.is_Integer) for each in nodes):
        return RATIONAL_DIGITS
    elementary = ("sympy.core", "sympy.functions.elementary", "sympy.functions.combinatorial.factorials")
    return ELEMENTARY_DIGITS if all(type(each).__module__.startswith(elementary) for each in nodes) else DIGITS
