"""What sympy must not be handed: expressions that are short to write and take for ever to compute.

A model that is rewarded by a symbolic checker learns to write them. Judged on the text alone, by
limits far above what answers of competitions need.
"""

from __future__ import annotations

import re

from vibelite.rewards.answer_text import MAX_DIGITS

MAX_CHARS = 2000
# Of one expression: the reader takes 1 ms for each sign.
MAX_SYMBOLIC_CHARS = 1000
MAX_DEPTH = 25
MAX_EXPONENT = 100_000
MAX_FACTORIAL = 2_100
MAX_BINOMIAL = 10_000
MAX_ROOT = 1_000
_OPERATORS = re.compile(
    r"\\(?:sum|prod|coprod|i{1,3}nt|oint|lim|limsup|liminf|det|Gamma|zeta)(?![A-Za-z])"
    r"|\\begin\s*\{[vV]matrix\}"
)
_FACTORIAL = re.compile(r"([0-9]*)\s*([A-Za-z]?)\s*!(\s*!)?")
# Of a variable and small numbers: "(n-1)!".
_FORMAL_FACTORIAL = re.compile(
    r"\((?=[^()]*[A-Za-z])(?:[0-9]{0,2}\s*[A-Za-z])(?:\s*[+-]\s*[0-9A-Za-z]{1,2}){0,2}\)\s*!(?!\s*!)"
)
_BINOMIAL = re.compile(r"\\(?:[dt]?binom|choose)(?![A-Za-z])")
_PLAIN_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{\s*([0-9]{1,6})\s*\}\s*\{\s*([0-9]{1,6})\s*\}")
# Of variables and small numbers: "\binom{2n+1}{n}".
_FORMAL_BINOMIAL = re.compile(
    r"\\[dt]?binom\s*\{(?=[^{}]*[A-Za-z])[A-Za-z0-9+\- ]{1,20}\}\s*\{[A-Za-z0-9+\- ]{1,20}\}"
)
_MAX_FORMAL_DIGITS = 2
# Their values need all digits of a large argument.
_PERIODIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
MAX_PERIODIC_EXPONENT = 1_000
_ROOT = re.compile(r"\\sqrt\s*\[[^\]0-9]*([0-9]+)")
_NUMBER = re.compile(r"[0-9]+")
_EXP = re.compile(r"\\exp(?![A-Za-z])")
# In an exponent, a small power of a variable is no larger than the variable.
_VARIABLE_POWER = re.compile(r"(?<![A-Za-z0-9])([a-df-zA-Z])\s*\^\s*(?:[2-9]|\{[2-9]\})(?![0-9])")
MAX_SMALL_POWER = 1_000
_SMALL_POWER = re.compile(r"\^\s*\{\s*([0-9]{1,2})\s*\^\s*\{?([0-9])\}?\s*\}")
_OPENING, _CLOSING = "{([", "})]"


def too_expensive(given: str, gold: str) -> str:
    """Why `given` must not be handed to sympy; "" if it may. Sums, integrals and the like are
    computed only where the gold has them.
    """
    if len(given) > MAX_SYMBOLIC_CHARS:
        return f"longer than {MAX_SYMBOLIC_CHARS} characters"
    if any(len(number) > MAX_DIGITS for number in _NUMBER.findall(given)):
        return f"a number of more than {MAX_DIGITS} digits"
    if _depth(given) > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH}"
    operators = set(_OPERATORS.findall(given)) - set(_OPERATORS.findall(gold))
    if operators:
        return f"{min(operators)} is not computed"
    if any(int(number) > MAX_ROOT for number in _ROOT.findall(given)):
        return "a root too high to compute"
    return _large_factorial(given) or _large_binomial(given) or _large_power(given)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        deepest = max(deepest, depth)
    return deepest


def _large_factorial(text: str) -> str:
    text = _FORMAL_FACTORIAL.sub("x", text)
    for digits, letter, second in _FACTORIAL.findall(text):
        if letter and not digits:
            continue
        if second or not digits or int(digits) > MAX_FACTORIAL:
            return "a factorial too large to compute"
    return ""


def _large_binomial(text: str) -> str:
    plain = _PLAIN_BINOMIAL.findall(text)
    formal = [
        binomial
        for binomial in _FORMAL_BINOMIAL.findall(text)
        if all(len(number) <= _MAX_FORMAL_DIGITS for number in _NUMBER.findall(binomial))
    ]
    if len(plain) + len(formal) < len(_BINOMIAL.findall(text)):
        return "" if not _NUMBER.search(text) else "a binomial that is not of two numbers"
    if any(int(number) > MAX_BINOMIAL for pair in plain for number in pair):
        return "a binomial too large to compute"
    return ""


def _large_power(text: str) -> str:
    """Exponents that are large numbers or hold powers, and powers of powers."""
    text = _SMALL_POWER.sub(_computed, _VARIABLE_POWER.sub(r"\1", _EXP.sub("e^", text)))
    exponents = []
    position = text.find("^")
    while position >= 0:
        exponent = _exponent_at(text, position + 1)
        numbers = [int(number) for number in _NUMBER.findall(exponent)]
        if "!" in exponent or "binom" in exponent:
            return "an exponent too large to compute"
        if "^" in exponent and numbers:
            return "a power in an exponent"
        if any(number > MAX_EXPONENT for number in numbers):
            return "an exponent too large to compute"
        after = text[position + 1 :].lstrip()[len(exponent) :].lstrip(" }")
        if after.startswith("^") and numbers:
            return "a power in an exponent"
        product = 1
        for number in numbers:
            product *= max(number, 1)
        is_group = text[:position].rstrip()[-1:] in (")", "]", "}")
        exponents.append((product, is_group))
        position = text.find("^", position + 1)
    largest = max((product for product, _ in exponents), default=1)
    outer = max((product for product, is_group in exponents if is_group), default=1)
    if _PERIODIC.search(text) and largest > MAX_PERIODIC_EXPONENT:
        return "a periodic function of a number too large"
    if max(largest, outer) > MAX_EXPONENT or (
        len(exponents) > 1 and outer * largest > MAX_EXPONENT
    ):
        return "a power too large to compute"
    return ""


def _computed(power: re.Match[str]) -> str:
    """The exponent "{2^3}" as a number, where that is small."""
    base, exponent = int(power[1]), int(power[2])
    return f"^{{{base**exponent}}}" if base**exponent <= MAX_SMALL_POWER else power[0]


def _exponent_at(text: str, start: int) -> str:
    """The exponent that begins at `start`: a group in brackets, a command, or one sign; of a number
    all digits, as people mean it.
    """
    rest = text[start:].lstrip()
    if rest[:1] in ("{", "("):
        depth = 0
        for i, character in enumerate(rest):
            depth += (character in _OPENING) - (character in _CLOSING)
            if depth == 0:
                return rest[: i + 1]
        return rest
    match = re.match(r"-?[0-9]+|\\[A-Za-z]+|.", rest)
    return match[0] if match else ""
