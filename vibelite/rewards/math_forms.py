r"""Answers that are neither one number nor one formula: words, ratios, congruences, intervals.

Each is compared by its own rule, exactly; the end points of intervals are compared elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from vibelite.rewards.answer_text import parse_rational
from vibelite.rewards.math_notation import split_equation, split_list, split_top

_WORD = re.compile(r"[A-Za-z][A-Za-z' -]*")
_SHORT = ("yes", "no", "odd", "all", "any")
# "(C) 12", "\\text{C) }", "Option C": an option's letter and its text.
_LABEL = re.compile(
    r"\s*(?:\\(?:text(?:bf|rm)?|mathrm|mathbf)\s*\{\s*)?"
    r"(?:\(([A-E])\)|([A-E])\)|(?:[Oo]ption|[Cc]hoice)\s+\(?([A-E])\b)"
)
_RATIO = re.compile(r"[0-9.]+(?:\s*:\s*[0-9.]+)+")
_TO = re.compile(r"\\text\s*\{\s*(?:to|:)\s*\}|\bto\b")
_MODULUS = re.compile(
    r"\s*(?:\\pmod\s*(?:\{\s*(\w+)\s*\}|([0-9A-Za-z]+))"
    r"|\(?\s*\\(?:bmod|mod)(?![A-Za-z])\s*\{?(\w+)\}?\s*\)?"
    r"|\(?\s*(?:\\text\s*\{)?\s*\(?\s*mod\s*\}?\s*(\w+)\s*\)?\s*\}?\)?)$"
)
_REMAINDER = re.compile(r"\s*\\(?:bmod|mod)(?![A-Za-z])")
# A variable, or a number times one.
_LINEAR = re.compile(
    r"([+-]?)\s*([0-9]{1,40}(?:\.[0-9]{1,40})?|\\frac\s*\{\s*[0-9]{1,40}\s*\}\s*\{\s*[0-9]{1,40}\s*\})?"
    r"\s*(?:\\cdot\s*|\*\s*)?(?!\\(?:pi|infty|frac|sqrt)(?![A-Za-z]))(\\?[A-Za-z]+)(?:\s*/\s*([0-9]{1,40}))?"
)
_MATRIX = re.compile(r"\\begin\s*\{([pb]?matrix)\}(.*)\\end\s*\{\1\}", re.S)
# "\\{x \\in \\mathbb{R} : x > 2\\}": the condition says all.
_BUILDER = re.compile(
    r"\\\{\s*\\?([A-Za-z]+)\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*(?:\\mid|\||:)(?![A-Za-z])(.*)\\\}"
)
_REALS = re.compile(r"\\mathbb\s*\{?R\}?|\\R|all real(?: number)?s", re.I)
_INEQUALITY = re.compile(r"<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])")
_BELOW = ("<", "<=", "\\le", "\\leq", "\\lt", "\\leqslant")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\s*\([A-Za-z, ]{1,20}\))?'?")
_NAME = r"\\?[A-Za-z]+(?:_(?:\w|\{[^{}]{1,40}\}))?'?"
# What is measured: |AB|, V_1:V_2, \\angle ABC, S_{\\triangle ABC}, f(3), \\frac{AB}{CD}.
_QUANTITY = re.compile(
    rf"\|\s*(?:[A-Z]{{2,}}|\\(?:vec|overrightarrow)\s*\{{[^{{}}]*\}})\s*\||{_NAME}(?:\s*:\s*{_NAME})*"
    r"|\\(?:angle|triangle|overline|vec|widehat|measuredangle)\s*\{?[A-Z]{1,4}\}?"
    r"|\\(?:sin|cos|tan|cot)\s*(?:[A-Z]|\\(?:theta|alpha|beta|gamma|phi|varphi|angle\s*[A-Z]{1,3}))"
    r"|[A-Za-z]\s*\([^()=]{1,20}\)|\\frac\s*\{[A-Z]{2}\}\s*\{[A-Z]{2}\}"
)
# What a point or a set is called: "P", "(x, y)".
_NAMES = re.compile(r"\\?[A-Za-z]+'?|\([A-Za-z](?:_\{?\w\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w\}?)?)+\)")
# "204_8": a number in another base, which is no other number of the same digits.
_BASE = re.compile(r"\(?([0-9A-Fa-f]+)\)?\s*_\s*\{?\s*\(?([0-9]{1,2})\)?\s*\}?")


def is_words(text: str) -> bool:
    """A text of words, not a product of variables."""
    return bool(_WORD.fullmatch(text)) and (
        " " in text or len(text) > 3 or text.lower() in _SHORT or len(text) > 1 and text.isupper()
    )


def equal_words(first: str, second: str) -> bool:
    """The same words, whatever their case; single letters only in the same case."""
    return _plain(first) == _plain(second)


def option_letter(boxed: str) -> str:
    """The letter that an option begins with; "" for anything else."""
    label = _LABEL.match(boxed)
    return "" if label is None else label[1] or label[2] or label[3]


def _plain(text: str) -> str:
    """ "No solutions" is "no solution"; one word has no plural, which may be a name."""
    words = text.strip("() ").split()
    if len(words) > 1:
        words = [re.sub("(?<=[a-z]{3}[^sS])s$", "", word.casefold()) for word in words]
    plain = " ".join(words)
    return plain.casefold() if len(plain) > 1 else plain


def is_ratio(text: str) -> bool:
    """ "3:4", "1:2:3" """
    return _RATIO.fullmatch(text) is not None


def equal_ratios(given: str, gold: str) -> bool:
    """Proportional numbers, "6:8" or "3/4" for "3:4"; a gold that is not in lowest terms is a time
    of day or a score, which only its own numbers are equal to.
    """
    given = _TO.sub(":", given)
    values = [x for part in given.split(":") if (x := parse_rational(part)) is not None]
    expected = [x for part in gold.split(":") if (x := parse_rational(part)) is not None]
    if values == expected:
        return True
    if any(x.denominator > 1 for x in expected) or math.gcd(*(int(x) for x in expected)) > 1:
        return False
    if len(expected) == 2 and ":" not in given:
        values.append(Fraction(1))
    return len(values) == len(expected) and all(
        a * expected[0] == b * values[0] != 0 for a, b in zip(values, expected, strict=True)
    )


def is_congruence(text: str) -> bool:
    r""" "n \\equiv 1 \\pmod 4", or the residue, "1 \\pmod 4"; "9 \\bmod 4" is a number."""
    modulus = _MODULUS.search(text)
    if modulus is None:
        return False
    is_residue = parse_rational(text[: modulus.start()]) is not None and not _REMAINDER.match(
        modulus[0]
    )
    return "\\equiv" in text or is_residue


def equal_congruences(given: str, gold: str) -> bool:
    """The same modulus and name, and residues that are equal modulo it; or the residue alone of a
    gold that has no name.
    """
    if "\\equiv" not in gold and _MODULUS.search(given) is None:
        return parse_rational(given) == parse_rational(_MODULUS.sub("", gold))
    first, second = _read_congruence(given), _read_congruence(gold)
    if first is None or second is None:
        return False
    (name, residue, modulus), (gold_name, gold_residue, gold_modulus) = first, second
    if modulus != gold_modulus or (name and name != gold_name):
        return False
    if residue == gold_residue:
        return True
    a, b, m = parse_rational(residue), parse_rational(gold_residue), parse_rational(modulus)
    return None not in (a, b) and bool(m) and (a - b) % m == 0  # pyright: ignore


def without_modulus(text: str) -> str:
    r"""The residue alone: "N \\equiv 29 \\pmod{100}" -> "29"."""
    residue = _MODULUS.sub("", text)
    return residue.rpartition("\\equiv")[2].strip() or text


def _read_congruence(text: str) -> tuple[str, str, str] | None:
    """(name, residue, modulus), the name "" where there is none."""
    match = _MODULUS.search(text)
    if match is None:
        return None
    name, _, residue = text[: match.start()].rpartition("\\equiv")
    modulus = next(group for group in match.groups() if group)
    return "".join(name.split()), residue.strip(), modulus


def as_tuple(text: str) -> str:
    """A matrix of one row or one column as a tuple; all else as it is."""
    match = _MATRIX.fullmatch(text.strip())
    if match is None:
        return text
    rows = [row.split("&") for row in match[2].strip().removesuffix("\\\\").split("\\\\")]
    if len(rows) > 1 and all(len(row) == 1 for row in rows):
        rows = [[row[0] for row in rows]]
    return f"({', '.join(cell.strip() for cell in rows[0])})" if len(rows) == 1 else text


def as_union(text: str) -> list[str]:
    r"""The intervals of a union, also where inequalities in one variable say the same; the text
    itself where it is neither.

    "x<2 \text{ or } 3\le x<5" -> ["(-\infty,2)", "[3,5)"]; "(1,2) \cup (3,4)" -> the two.
    """
    text = re.sub(r"^\\?[A-Za-z]+\s*\\in(?![A-Za-z])", "", text).strip()
    if (
        (built := _BUILDER.fullmatch(text))
        and built[1] in built[2]
        and _INEQUALITY.search(built[2])
    ):
        text = built[2].strip()
    if _REALS.fullmatch(text):
        return ["(-\\infty,\\infty)"]
    parts = [part.strip() for part in re.split(r"\\cup(?![A-Za-z])", text)]
    if len(parts) == 1:
        parts = split_top(text) if _INEQUALITY.search(text) else parts
    return [_interval(part) or part for part in parts]


def _interval(text: str) -> str:
    """An inequality in one variable, or in a number times it, as an interval; "" for all else."""
    signs = _INEQUALITY.findall(text)
    sides = [side.strip() for side in _INEQUALITY.split(text)]
    if len(signs) not in (1, 2) or not all(sides):
        return ""
    upward = [sign in _BELOW for sign in signs]
    if len(set(upward)) > 1:
        return ""
    if not upward[0]:
        signs, sides = signs[::-1], sides[::-1]
    closed = [len(sign) > 1 and sign not in ("\\lt", "\\gt") for sign in signs]
    places = [i for i, side in enumerate(sides) if _coefficient(side) is not None]
    if not places or (len(sides) == 3 and 1 not in places):
        return ""
    place = 1 if len(sides) == 3 else places[0]
    factor = _coefficient(sides[place]) or Fraction(1)
    below = (sides[place - 1], closed[place - 1]) if place > 0 else None
    above = (sides[place + 1], closed[place]) if place + 1 < len(sides) else None
    if factor < 0:
        below, above = above, below
    low = ("-\\infty", False) if below is None else (_divided(below[0], factor), below[1])
    high = ("\\infty", False) if above is None else (_divided(above[0], factor), above[1])
    return f"{'[' if low[1] else '('}{low[0]},{high[0]}{']' if high[1] else ')'}"


def _divided(bound: str, factor: Fraction) -> str:
    """An end point over the number that stood before the variable."""
    if factor == 1:
        return bound
    if "\\infty" in bound:
        return bound if factor > 0 else bound.replace("-", "") if "-" in bound else f"-{bound}"
    value = parse_rational(bound)
    if value is not None:
        return str(value / factor)
    return f"\\frac{{{bound}}}{{{factor}}}"


def _coefficient(side: str) -> Fraction | None:
    """The number before a variable; None for what is no number times a variable."""
    match = _LINEAR.fullmatch(side)
    if match is None:
        return None
    sign, number, variable, divisor = match.groups()
    if (sign or number or divisor) and len(variable) > 1 and not variable.startswith("\\"):
        return None
    value = parse_rational(number or "1")
    if not value or divisor and int(divisor) == 0:
        return None
    return (-value if sign == "-" else value) / int(divisor or 1)


def without_names(given: str, gold: str) -> tuple[str, str]:
    """ "(x,y) = (1,2)" is (1,2) and "P = (1,2)" too, unless the two have different names."""
    names, contents = [], []
    for text in (given, gold):
        parts = split_equation(text)
        is_named = len(parts) == 2 and _NAMES.fullmatch(parts[0]) and split_list(parts[1])[0]
        names.append(re.sub(r"\s", "", parts[0]) if is_named else "")
        contents.append(parts[1] if is_named else text)
    if all(names) and names[0] != names[1]:
        return given, gold
    return contents[0], contents[1]


def defined_name(parts: Sequence[str]) -> str:
    """The variable, function or named quantity that an equation defines, such as |AB|, V_1:V_2 or
    \\angle ABC; "" if it defines none, as "x + y = 5" and "|x| = 1".
    """
    if len(parts) < 2 or not (_VARIABLE.fullmatch(parts[0]) or _QUANTITY.fullmatch(parts[0])):
        return ""
    return re.sub(r"[\s|{}\\]", "", parts[0])


def as_assigned(given: str, gold: str) -> tuple[str, str]:
    """Where the gold assigns values to several names, "p=5,q=2;p=7,q=2", both as tuples in the
    order of its names: "(5,2), (7,2)".
    """
    names, groups = _assignments(gold)
    if len(names) < 2:
        return given, gold
    its_names, its_groups = _assignments(given)
    if its_names and set(its_names) != set(names):
        return given, gold
    if its_names:
        places = [its_names.index(name) for name in names]
        its_groups = [[group[place] for place in places] for group in its_groups]
    else:
        parts = split_equation(given)
        if len(parts) == 2 and re.sub(r"\s", "", parts[0]) == f"({','.join(names)})":
            given = parts[1]
        opening, items, _ = split_list(given)
        if opening or len(items) != len(names) * len(groups):
            return given, _as_tuples(groups)  # perhaps tuples already
        its_groups = [items[i : i + len(names)] for i in range(0, len(items), len(names))]
    return _as_tuples(its_groups), _as_tuples(groups)


def _as_tuples(groups: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"({','.join(group)})" for group in groups)


def _assignments(text: str) -> tuple[list[str], list[list[str]]]:
    """The names that a list assigns values to, over and over again, and the values of each round in
    the order of the names; no names where the text is no such list.
    """
    pairs = [split_equation(item) for item in split_top(text)]
    if any(len(pair) != 2 or not _VARIABLE.fullmatch(pair[0]) for pair in pairs):
        return [], []
    names = list(dict.fromkeys(name for name, _ in pairs))
    rounds = [dict(pairs[i : i + len(names)]) for i in range(0, len(pairs), len(names))]
    if any(set(values) != set(names) for values in rounds):
        return [], []
    return names, [[values[name] for name in names] for values in rounds]


def before_approximation(text: str) -> str:
    r""" "\frac13 \approx 0.333" answers \frac13; "x \approx 0.333" answers 0.333."""
    first, sign, second = text.partition("\\approx")
    if not sign:
        return text
    return (
        second.strip() if not first.strip() or _VARIABLE.fullmatch(first.strip()) else first.strip()
    )


def without_base(given: str, gold: str) -> tuple[str, str]:
    """Digits with their base as one word each; a base that only the gold names is understood."""
    base, gold_base = _BASE.fullmatch(given), _BASE.fullmatch(gold)
    if gold_base and not base:
        return given, gold_base[1]
    if gold_base and base:
        return f"{base[1]}_{base[2]}", f"{gold_base[1]}_{gold_base[2]}"
    return given, gold
