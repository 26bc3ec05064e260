r"""Mathematical answers: the last balanced \boxed{} against the gold, exactly wherever possible.

Three-valued: correct, wrong, or unverifiable with a reason. Numbers, lists of numbers and words are
settled here on the text; sympy sees the rest (symbolic.py) unless it would compute for ever, and
then never more than one element of the box. `check_math` has no time limit: it is for the pool's
workers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from vibelite.errors import DataError, VibeLiteError
from vibelite.rewards.answer_text import boxed_answer, final_gold, judge, parse_rational
from vibelite.rewards.math_forms import (
    as_assigned,
    as_tuple,
    as_union,
    before_approximation,
    defined_name,
    equal_congruences,
    equal_ratios,
    equal_words,
    is_congruence,
    is_ratio,
    is_words,
    option_letter,
    without_base,
    without_modulus,
    without_names,
)
from vibelite.rewards.math_guard import MAX_CHARS, too_expensive
from vibelite.rewards.math_notation import (
    Notation,
    read_notation,
    split_equation,
    split_list,
    split_top,
    unit_size,
    units_differ,
)
from vibelite.types import Verdict

# Comparing elements of two unordered lists symbolically takes the square of this many steps.
MAX_SYMBOLIC_ITEMS = 40
# What a checker that works says; none of it is settled on the text.
_KNOWN = (
    ("\\sqrt{12}", "2\\sqrt{3}", True),
    ("\\frac{x^2-1}{x-1}", "x+1", True),
    ("\\sqrt{13}", "2\\sqrt{3}", False),
    ("\\frac{x^2+1}{x-1}", "x+1", False),
)
# True, False, or why neither can be said. None = only sympy could tell.
Outcome = bool | str | None
Leaf = Callable[[str, str], Outcome]

_COMMAND = re.compile(r"\\[A-Za-z]+")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|leq|geq|lt|gt|leqslant|geqslant|ne|neq)(?![A-Za-z])")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])\s*")
_MINUS_PLUS = re.compile(r"\\mp(?![A-Za-z])\s*")
_SUBSCRIPTED = re.compile(r"^[0-9]+\s*_")
_DOTS = re.compile(r"\\(?:l|c)?dots(?![A-Za-z])|\.\.\.")
_INTEGER = re.compile("-?[0-9]+")


def check_math(text: str, answer: str) -> Verdict:
    r"""The last \boxed{} after </think> is mathematically equal to the gold `answer`.

    Wrong and "unverifiable: ..." both have reward 0; only of the latter is `correct` None.
    """
    from vibelite.rewards.symbolic import equal_symbolically

    verdict = _check(text, answer, equal_symbolically)
    assert verdict is not None, "sympy leaves nothing open"
    return verdict


def check_math_cheaply(text: str, answer: str) -> Verdict | None:
    """The verdict of `check_math` where it needs no sympy, else None."""
    return _check(text, answer, lambda given, gold: None)


@functools.cache
def check_itself() -> None:
    """Raises VibeLiteError unless this process gives known verdicts that need sympy. A checker that
    fails silently in its worker, as one does that sets alarms off the main thread, calls every
    answer wrong.
    """
    for boxed, answer, expected in _KNOWN:
        verdict = check_math(f"\\boxed{{{boxed}}}", answer)
        if verdict.correct is not expected:
            raise VibeLiteError(
                "the checker of mathematical answers does not work here: of "
                f"\\boxed{{{boxed}}} for {answer} it says {verdict.detail!r}; are math-verify and "
                "sympy of the versions that VibeLite asks for?"
            )


def check_gold(answer: str) -> None:
    """Raises DataError for a gold that no answer could be compared with."""
    from vibelite.rewards.symbolic import can_parse

    gold = read_notation(final_gold(answer))
    _, items, _ = split_list(gold.body)
    if (union := as_union(gold.body)) != [gold.body]:
        items = [item for part in union for item in split_list(part)[1]]
    for item in items or [""]:
        if gold.is_text and item or _value(item) is not None or is_words(item):
            continue
        if too_expensive(item, item):
            continue  # equal texts are equal; all else is unverifiable
        if item and (is_congruence(item) or _DOTS.fullmatch(item)):
            continue
        if not item or not can_parse(_strip_assignment(item)):
            raise DataError(f"the answer {answer!r} cannot be read as mathematics")


def normalise(answer: str) -> str:
    r"""The answer without marks that mean nothing: $, \left, spacing, \text, units, a final dot.

    "x = 1{,}037." -> "1037", "90^\circ" -> "90", "\dfrac12" -> "\frac12".
    """
    return _strip_assignment(read_notation(answer[:MAX_CHARS]).body)


def _check(text: str, answer: str, leaf: Leaf) -> Verdict | None:
    boxed, failure = boxed_answer(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    outcome = compare(boxed, answer, leaf)
    if outcome is None:
        return None
    if isinstance(outcome, str):
        return Verdict(0.0, None, f"unverifiable: {outcome}: {boxed[:80]}")
    return judge(outcome, boxed)


def compare(boxed: str, answer: str, leaf: Leaf) -> Outcome:
    """The content of a box against the gold; `leaf` compares what is no plain number or word."""
    plain = boxed.strip()
    if plain == answer.strip():
        return True
    if len(boxed) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    given = Notation(plain) if _INTEGER.fullmatch(plain) else read_notation(boxed)
    gold, expected = _read_gold(answer)
    if not given.body:
        return False
    if units_differ(given.unit, gold.unit):
        return _equal_quantities(given, gold)
    if given.is_percent != gold.is_percent:
        return _equal_percents(given, gold, leaf)
    if given.body == gold.body:
        return True
    if expected is not None and (value := _value(given.body)) is not None:
        return value == expected
    if re.fullmatch("[A-E]", gold.body) and (letter := option_letter(boxed)):
        return letter == gold.body
    if _DOTS.search(given.body) and not _DOTS.search(gold.body):
        return False
    given, gold = _in_radians(given, gold.body), _in_radians(gold, given.body)
    if gold.is_text or is_words(gold.body):
        items, golds = split_top(given.body), split_top(gold.body)
        return equal_words(given.body, gold.body) or (
            len(golds) > 1 and _match(items, golds, equal_words) is True
        )
    outcome = _compare_lists(given.body, gold.body, leaf)
    # "100,200" is one number or two: the model's own way of writing it decides.
    if outcome is False and re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{3})+", answer.strip()):
        outcome = _compare_lists(given.body, answer.replace(",", ", "), leaf)
    return outcome


def _equal_quantities(given: Notation, gold: Notation) -> bool:
    """5 m is 500 cm; only of plain numbers and units whose ratio is exact."""
    value, expected = _value(given.body), _value(gold.body)
    size, its_size = unit_size(gold.unit), unit_size(given.unit)
    if value is None or expected is None or size is None or its_size is None:
        return False
    return value * its_size == expected * size


def _in_radians(angle: Notation, other: str) -> Notation:
    """Degrees as a multiple of pi, if the other angle is one."""
    if angle.unit != "degree" or "\\pi" not in other:
        return angle
    return Notation(f"\\frac{{({angle.body}) \\pi}}{{180}}")


@functools.lru_cache(maxsize=4096)
def _read_gold(answer: str) -> tuple[Notation, Fraction | None]:
    """The gold in plain form, and its value if it is a number."""
    gold = read_notation(final_gold(answer))
    return gold, None if gold.is_text else _value(gold.body)


def _equal_percents(given: Notation, gold: Notation, leaf: Leaf) -> Outcome:
    """One of the two is a percentage: 50% is 0.5, and n% may stand for n where n is asked for.

    Not "0.5%" for the gold 0.5, which is more likely a share than a number of percent.
    """
    value, expected = _value(given.body), _value(gold.body)
    if value is None or expected is None:
        return _compare_lists(given.body, gold.body, leaf)
    if given.is_percent:
        return value / 100 == expected or (value == expected and abs(expected) > 1)
    return value in (expected / 100, expected)


def _compare_lists(given: str, gold: str, leaf: Leaf) -> Outcome:
    """Sets and bare lists in any order, tuples and intervals in theirs; unions of intervals in any
    order. A bare list may stand for a set or a tuple, on either side, and a tuple for a vector.
    """
    given, gold = as_assigned(given, gold)
    if split_list(given)[0] or split_list(gold)[0]:
        given, gold = as_tuple(given), as_tuple(gold)
    union, gold_union = as_union(given), as_union(gold)
    if union and gold_union and (union != [given] or gold_union != [gold]):
        return _match(union, gold_union, lambda a, b: _compare_brackets(a, b, leaf))
    return _compare_brackets(given, gold, leaf)


def _compare_brackets(given: str, gold: str, leaf: Leaf) -> Outcome:
    given, gold = without_names(given, gold)
    opening, items, closing = split_list(given)
    gold_opening, gold_items, gold_closing = split_list(gold)
    if opening == "{" and gold_opening == "(" and len(items) == 1:  # the set of all solutions
        opening, items, closing = split_list(items[0])
    brackets = {opening + closing, gold_opening + gold_closing}
    if len(brackets - {""}) > 1 or ("" in brackets and not brackets <= {"", "{}", "()"}):
        return False  # "0, 1" are two numbers and no interval
    if brackets <= {"", "{}"}:
        items, gold_items = _expand_signs(items), _expand_signs(gold_items)
        if "{}" in brackets:
            items, gold_items = _without_repeats(items), _without_repeats(gold_items)
        return _match(items, gold_items, lambda a, b: _compare_one(a, b, leaf))
    if len(items) != len(gold_items):
        return False
    return _all(_compare_one(a, b, leaf) for a, b in zip(items, gold_items, strict=True))


def _compare_one(given: str, gold: str, leaf: Leaf) -> Outcome:
    """Two elements: numbers exactly, equations by their parts, everything else by `leaf`."""
    if given == gold or (_DOTS.fullmatch(given) and _DOTS.fullmatch(gold)):
        return True
    if split_list(gold)[0] or split_list(given)[0]:  # a tuple in a list
        return _compare_brackets(given, gold, leaf)
    given = before_approximation(given)
    parts, gold_parts = split_equation(given), split_equation(gold)
    if len(parts) > 1 or len(gold_parts) > 1:
        return _compare_equations(parts, gold_parts, leaf)
    if _RELATION.search(given) and not _RELATION.search(gold):
        return False
    if is_ratio(gold):
        return equal_ratios(given, gold)
    if is_congruence(gold):
        return equal_congruences(given, gold)
    given = without_modulus(given)
    given, gold = without_base(given, gold)
    value, expected = _value(given), _value(gold)
    if value is not None and expected is not None:
        return value == expected
    if given == gold:
        return True
    if is_words(gold) or (is_words(given) and expected is not None):
        return equal_words(given, gold)
    if len(given) == len(gold) == 1 or _SUBSCRIPTED.search(given):
        return False
    return _ask(given, gold if expected is None else str(expected), leaf)


def _ask(given: str, gold: str, leaf: Leaf) -> Outcome:
    """The outcome of `leaf`, unless it could take for ever."""
    return too_expensive(given, gold) or too_expensive(gold, gold) or leaf(given, gold)


def _compare_equations(parts: Sequence[str], gold_parts: Sequence[str], leaf: Leaf) -> Outcome:
    """ "x = 5" is 5; in "a = b = c" every part must be the answer; other equations are compared
    whole.
    """
    name, gold_name = defined_name(parts), defined_name(gold_parts)
    if len(gold_parts) == 1:
        # "m + n = 204" says what 204 is; a part without letters has to be 204 itself.
        gold = gold_parts[0]
        is_said = bool(name) or (_has_letters(parts[0]) and not _has_letters(gold))
        return _all(_compare_one(part, gold, leaf) for part in (parts[1:] if is_said else parts))
    if not gold_name or (len(parts) > 1 and not name):
        return _ask(" = ".join(parts), " = ".join(gold_parts), leaf)
    if name and name != gold_name and not _are_one_function(name, gold_name):
        return False
    values = parts[1:] if name else parts
    return _all(_compare_one(part, gold_parts[-1], leaf) for part in values)


def _are_one_function(name: str, other: str) -> bool:
    """ "y" and "f(x)"."""
    return "y" in (name, other) and "(x)" in name + other


def _has_letters(text: str) -> bool:
    return bool(re.search("[A-Za-z]", _COMMAND.sub("", text)))


def _all(outcomes: Iterable[Outcome]) -> Outcome:
    """False as soon as one is; else the first that is open; else True."""
    result: Outcome = True
    for outcome in outcomes:
        if outcome is False:
            return False
        if result is True:
            result = outcome
    return result


def _match(items: Sequence[str], golds: Sequence[str], equal: Leaf) -> Outcome:
    """Every gold has an equal item and no item is left; equality is an equivalence, so the first
    match will do.
    """
    if len(items) != len(golds):
        return False
    remaining = list(items)
    result: Outcome = True
    for gold in golds:
        open_outcome: Outcome = False
        for place, item in enumerate(remaining):
            outcome = equal(item, gold)
            if outcome is True:
                del remaining[place]
                break
            if outcome is not False and open_outcome is False:
                open_outcome = outcome
        else:
            if open_outcome is False:
                return False
            result = open_outcome
            if len(items) > MAX_SYMBOLIC_ITEMS:
                return f"more than {MAX_SYMBOLIC_ITEMS} expressions"
    return result


def _expand_signs(items: Sequence[str]) -> list[str]:
    r""" "a \pm b" are two items."""
    expanded = []
    for item in items:
        if _PLUS_MINUS.search(item) or _MINUS_PLUS.search(item):
            for plus, minus in (("+", "-"), ("-", "+")):
                expanded.append(
                    _PLUS_MINUS.sub(plus, _MINUS_PLUS.sub(minus, item)).strip().removeprefix("+")
                )
        else:
            expanded.append(item)
    return expanded


def _without_repeats(items: Sequence[str]) -> list[str]:
    """Each element of a set once, as far as that shows on numbers and texts."""
    return list(
        {(item if (value := _value(item)) is None else value): item for item in items}.values()
    )


def _strip_assignment(text: str) -> str:
    """ "x = 5" -> "5", "f(x)=2x" -> "2x"; other equations stay."""
    parts = split_equation(text)
    return parts[1] if len(parts) == 2 and defined_name(parts) else text


def _value(text: str) -> Fraction | None:
    return parse_rational(text.replace("{,}", "").replace(" ,", ","))
