r"""Equality of two expressions by math-verify's parser and sympy, in a process that may be killed.

math-verify reads the LaTeX; what it rounds or chops is not left to it: decimals are taken as exact
rationals, and numbers are equal if 60 digits agree to 40. Nothing here has a time limit: its alarm
needs the main thread, cancels the alarms of others, and can be swallowed.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.logic import And
from math_verify import verify
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

DIGITS = 60
AGREEING_DIGITS = 50
# Irrational numbers are compared down to the same place after the point, however large they are, up
# to so many digits; of larger ones only the leading digits count.
MAX_DIGITS = 20_000
# Variables are tried at points of both signs; a formula of more variables is left to math-verify.
NUM_POINTS = 5
MAX_SYMBOLS = 8
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
# Units are taken off in math_notation.py; the reader's own list has "g", "h" and "t", which are
# variables here, and it does not tell capital letters from small ones.
_NORMALISATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_IMAGINARY = re.compile(r"(?<![A-Za-z])i(?![A-Za-z])")
_FUNCTION = r"\\(?:sin|cos|tan|cot|sec|csc|ln|log)(?![A-Za-z])"
# "\\cos{x}\\cdot y": the braces end the argument, to all but the reader.
_BRACED = re.compile(
    rf"({_FUNCTION}(?:\s*\^\s*(?:[0-9]|\{{-?[0-9]\}}))?)\s*\{{([^{{}}]*)\}}(?!\s*\{{)"
)
# The reader takes \\pi before a bracket for a function.
_PI_TIMES = re.compile(r"(\\pi)\s*\(")
_ARGUMENT = re.compile(
    rf"({_FUNCTION}(?:\s*\^\s*(?:[0-9]|\{{-?[0-9]\}}))?)\s*((?:[0-9]{{0,4}}\s*)?(?:[A-Za-z]|\\[a-z]+))"
    rf"(?=\s*(?:/|\\cdot|\\times|{_FUNCTION}))"
)

# It warns that there is no time limit, which is the pool's.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal_symbolically(given: str, gold: str) -> bool | str:
    """Whether two answers are equal; else why that cannot be said.

    What cannot be read as mathematics is no answer: False.
    """
    expected = _parse(gold)
    if expected is None:
        return f"the gold {gold[:80]!r} cannot be read"
    value = _parse(given)
    if value is None:
        return False
    try:
        return _equal(value, expected)
    except MemoryError:
        raise
    except Exception as error:  # sympy raises anything on what has no meaning
        return f"sympy cannot compare ({type(error).__name__})"


def can_parse(answer: str) -> bool:
    """Whether it can be read as mathematics."""
    return _parse(answer) is not None


@functools.lru_cache(maxsize=4096)
def _parse(content: str) -> Any:
    """The answer as a sympy object with exact numbers; None if it cannot be read."""
    try:
        value = latex2sympy(
            normalize_latex(_with_arguments_closed(content), _NORMALISATION),
            is_real=None if _IMAGINARY.search(content) else True,
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
        return None if value is None or isinstance(value, str) else _exact(value)
    except MemoryError:
        raise
    except Exception:  # its grammar and its conversion raise anything on what is no mathematics
        return None


def _with_arguments_closed(content: str) -> str:
    r""" "\sin x / \cos x" -> "\sin(x) / \cos(x)"; the reader has all that follows as argument."""
    content = _BRACED.sub(r"\1(\2)", _PI_TIMES.sub(r"\1\\cdot (", content))
    return _ARGUMENT.sub(r"\1(\2)", content)


def _exact(value: Any) -> Any:
    """The object with every decimal as the rational that was written, and i as the unit."""
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(_exact)
    if isinstance(value, sympy.MatMul):
        scalar, matrices = value.as_coeff_matrices()
        if len(matrices) == 1 and isinstance(matrices[0], sympy.MatrixBase):
            return _exact(scalar * matrices[0])
    exact = {x: sympy.Rational(str(x)) for x in value.atoms(sympy.Float)}
    unit = {x: sympy.I for x in value.free_symbols if str(x) == "i"}
    return value.xreplace(exact | unit)


def _equal(a: Any, b: Any) -> bool:
    if a == b:
        return True
    if isinstance(a, sympy.MatrixBase) or isinstance(b, sympy.MatrixBase):
        return (
            isinstance(a, sympy.MatrixBase)
            and isinstance(b, sympy.MatrixBase)
            and a.shape == b.shape
            and all(map(_equal, a.flat(), b.flat()))
        )
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        a, b = a.doit(), b.doit()
        if _is_number_like(a) and _is_number_like(b):
            return _equal_expressions(a, b)
    if isinstance(a, Relational | And) != isinstance(b, Relational | And):
        return False
    return bool(
        verify(
            [b], [a], float_rounding=DIGITS, numeric_precision=DIGITS, timeout_seconds=None,
            raise_on_error=True,
        )
    )  # fmt: skip


def _is_number_like(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and not value.has(
        AppliedUndef, sympy.Integral, sympy.Sum, sympy.Product, sympy.MatrixExpr
    )


def _equal_expressions(a: Any, b: Any) -> bool:
    """Equal at every point at which both have a value; by rewriting if there is no such point."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if len(symbols) > MAX_SYMBOLS:
        return sympy.simplify(a - b) == 0
    num_compared = 0
    for point in _points(symbols):
        at_a, at_b = a.xreplace(point), b.xreplace(point)
        agree = _agree(at_a, at_b)
        if agree is False and not _is_off_the_real_line(a, b, at_a, at_b):
            return False
        num_compared += agree is True
    return num_compared > 0 or sympy.simplify(a - b) == 0


def _is_off_the_real_line(a: Any, b: Any, at_a: Any, at_b: Any) -> bool:
    """Whether formulas without i have a complex value here: then it is open which root of a
    negative number is meant.
    """
    if a.has(sympy.I) or b.has(sympy.I):
        return False
    return any(sympy.im(sympy.N(value, DIGITS)) != 0 for value in (at_a, at_b))


def _points(symbols: Sequence[Any]) -> Iterator[dict[Any, Any]]:
    """Points of distinct fractions of both signs; one empty point if there are no variables."""
    for number in range(NUM_POINTS if symbols else 1):
        yield {
            symbol: sympy.Rational(
                _PRIMES[(number + 2 * i) % len(_PRIMES)] * (-1) ** (number * (i + 1)),
                _PRIMES[(3 * number + i + 4) % len(_PRIMES)] + 1,
            )
            for i, symbol in enumerate(symbols)
        }


def _agree(a: Any, b: Any) -> bool | None:
    """Whether two constants are equal to AGREEING_DIGITS; None if either has no value."""
    if a == b:
        return True
    if a.is_Rational and b.is_Rational:
        return False
    x, y = sympy.N(a, DIGITS, maxn=2 * DIGITS), sympy.N(b, DIGITS, maxn=2 * DIGITS)
    for value in (x, y):
        if not value.is_number or value.has(sympy.nan, sympy.zoo):
            return None
    if not (x.is_finite and y.is_finite):
        return bool(x == y)
    size = max(abs(x), abs(y))
    if size == 0:
        return True
    if (
        size > sympy.Float(10) ** DIGITS
        and abs(x - y) <= size * sympy.Float(10) ** -AGREEING_DIGITS
    ):
        num_digits = min(DIGITS + int(sympy.log(size, 10).evalf(5)), MAX_DIGITS)
        x, y = sympy.N(a, num_digits), sympy.N(b, num_digits)
        return bool(abs(x - y) <= size * sympy.Float(10) ** (DIGITS - AGREEING_DIGITS - num_digits))
    if size > sympy.Float(10) ** -DIGITS:
        return bool(abs(x - y) <= size * sympy.Float(10) ** -AGREEING_DIGITS)
    # Both tiny: either truly, with all their digits, or what is left of a sum that cancels.
    return (
        _is_zero(a) and _is_zero(b)
        if _is_zero(a) or _is_zero(b)
        else bool(abs(x - y) <= size * sympy.Float(10) ** -AGREEING_DIGITS)
    )


def _is_zero(value: Any) -> bool:
    """Whether a constant is zero, as far as sympy can tell."""
    return value.equals(0) is True
