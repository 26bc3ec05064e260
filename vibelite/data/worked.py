"""Worked solutions of generated problems: several different ways each, checked before use.

A way of solving is a `path`. The texts are as short as the way allows, one step a line, because a
model of under a million parameters has to learn them; the arithmetic is spelled out in the order in
which it can be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.verifier import verify
from vibelite.run_dir import derive_seed
from vibelite.types import Completion, Problem, Trace

# (path, steps): the steps end with the answer, which `solutions` puts into the box.
Way = tuple[str, list[str], int]
# More steps or listed multiples than this are not a way to solve a problem.
MAX_STEPS = 8
MAX_LISTED = 12


def work_out(problems: list[Problem], *, paths_per_problem: int) -> list[Trace]:
    """Up to `paths_per_problem` traces for each problem, whose id says by which paths."""
    traces = []
    for problem in problems:
        found = solutions(problem)
        first = derive_seed(0, problem.id) % len(found)
        for path, text in (found[first:] + found[:first])[:paths_per_problem]:
            answer = {"role": "assistant", "content": text}
            traces.append(Trace(problem.id, problem.subdomain, (*problem.messages, answer), path))
    return traces


def solutions(problem: Problem) -> list[tuple[str, str]]:
    """All (path, text) by which the project can solve the problem, no text twice. Raises DataError
    for generators without solutions, and for one that the verifier rejects: a defect of the
    project.
    """
    dataset = problem.metadata.get("dataset")
    if dataset not in WAYS:
        raise DataError(
            f"problem {problem.id}: there are no worked solutions for {dataset!r}; prepared are "
            f"{', '.join(WAYS)}"
        )
    found: dict[str, str] = {}
    for path, steps, answer in WAYS[dataset](problem.metadata["facts"]):
        text = "\n".join([*steps, f"\\boxed{{{answer}}}"])
        if text in found.values():
            continue
        verdict = verify(problem, Completion((), (), "stop", text))
        if not verdict.correct:
            raise DataError(
                f"problem {problem.id}: worked solution {path!r} is {verdict.detail!r}, and the "
                f"answer is {problem.answer!r}; this is a defect of VibeLite, please report it"
            )
        found[path] = text
    return list(found.items())


def _solve_equation(facts: dict[str, Any]) -> Iterator[Way]:
    """a x + b = c, with a root that is a whole number."""
    a, b, c = facts["coefficient"], facts["constant"], facts["value"]
    x = (c - b) // a
    moved = [f"{c}{-b:+d}={c - b}"] if b else []
    yield "isolate", [*moved, f"{c - b}/{a}={x}"], x
    if a > 1 and 0 < x <= MAX_LISTED:
        yield "multiples", [*moved, _listed(a * count for count in range(1, x + 1)), f"x={x}"], x
    at_one = [f"x=1:{a}{b:+d}={a + b}"] if b else [f"x=1:{a}"]
    short = c - a - b
    yield (
        "false position",
        [*at_one, f"{c}{-a - b:+d}={short}", f"{short}/{a}={x - 1}", f"1{x - 1:+d}={x}"],
        x,
    )


def _find_angle(facts: dict[str, Any]) -> Iterator[Way]:
    """The last angle of a polygon; its angles add up to 180 (n - 2)."""
    angles = facts["angles"]
    total = 180 * (len(angles) - 1)
    last = total - sum(angles)
    whole = [f"180*{len(angles) - 1}={total}"] if len(angles) > 2 else []
    yield "sum", [*_running(angles), *whole, f"{total}-{sum(angles)}={last}"], last
    yield "peel", [*whole, *_running([total, *(-angle for angle in angles)])], last
    if len(angles) == 2:
        # The two known angles leave 90 - a and 90 - b.
        rests = [90 - angle for angle in angles]
        steps = [f"90-{angle}={90 - angle}" for angle in angles]
        yield "right angles", [*steps, *_running(rests)], last
    else:
        # Exterior angles add up to 360.
        outer = [180 - angle for angle in angles]
        steps = [f"180-{angle}={180 - angle}" for angle in angles]
        rest = 360 - sum(outer)
        yield (
            "exterior",
            [*steps, *_running(outer), f"360-{sum(outer)}={rest}", f"180-{rest}={last}"],
            last,
        )


def _find_gcd(facts: dict[str, Any]) -> Iterator[Way]:
    numbers = facts["numbers"]
    answer = gcd(*numbers)
    yield "remainders", _euclid(numbers), answer
    differences = _subtract(numbers)
    if len(differences) <= MAX_STEPS:
        yield "subtraction", differences, answer
    factored = [f"{number}={_factors(number)}" for number in numbers]
    yield "factoring", [*factored, f"{_factors(answer)}={answer}"], answer


def _count_legs(facts: dict[str, Any]) -> Iterator[Way]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    counted = [(count, ANIMALS[animal]) for animal, count in facts["animals"].items()]
    products = [count * legs for count, legs in counted]
    answer = sum(products)
    multiplied = [f"{count}*{legs}={count * legs}" for count, legs in counted]
    yield "products", [*multiplied, *_running(products)], answer
    added = [f"{'+'.join([str(legs)] * count)}={count * legs}" for count, legs in counted]
    if max(count for count, _ in counted) <= MAX_STEPS:
        yield "addition", [*added, *_running(products)], answer
    else:
        totals = [sum(products[: number + 1]) for number in range(len(products))]
        lines = [
            f"{before}+{count}*{legs}={after}"
            for before, (count, legs), after in zip(totals, counted[1:], totals[1:], strict=False)
        ]
        yield "running total", [multiplied[0], *lines], answer
    if sum(count for count, _ in counted) <= MAX_LISTED:
        so_far, lines = 0, []
        for count, legs in counted:
            lines.append(_listed(so_far + legs * number for number in range(1, count + 1)))
            so_far += count * legs
        yield "counting on", lines, answer


def _count_letters(facts: dict[str, Any]) -> Iterator[Way]:
    words = facts["words"]
    counts = [word.lower().count(facts["letter"]) for word in words]
    answer = sum(counts)
    each = [f"{word} {count}" for word, count in zip(words, counts, strict=True)]
    total = [f"{'+'.join(map(str, counts))}={answer}"]
    yield "word by word", [*each, *total], answer
    totals = [sum(counts[: number + 1]) for number in range(len(counts))]
    so_far = [f"{word} {total}" for word, total in zip(words, totals, strict=True)]
    yield "running total", so_far, answer
    spelled = [f"{'-'.join(word)} {count}" for word, count in zip(words, counts, strict=True)]
    yield "spelling", [*spelled, *total], answer


def _add_terms(facts: dict[str, Any]) -> Iterator[Way]:
    terms = facts["terms"]
    answer = sum(terms)
    yield "left to right", _running(terms) or [str(answer)], answer
    positive = [term for term in terms if term >= 0]
    negative = [-term for term in terms if term < 0]
    if len(terms) > 2 and positive and negative:
        steps = [
            *_running(positive),
            *_running(negative),
            f"{sum(positive)}-{sum(negative)}={answer}",
        ]
        yield "gains and losses", steps, answer
    if len(terms) == 2 and 0 < abs(terms[1]) < 10:
        step = 1 if terms[1] > 0 else -1
        yield "counting on", [_listed(range(terms[0] + step, answer + step, step))], answer
    if len(terms) == 2 and abs(terms[1]) >= 10 and terms[1] % 10:
        ones = abs(terms[1]) % 10 * (1 if terms[1] > 0 else -1)
        yield "tens first", _running([terms[0], terms[1] - ones, ones]), answer


def _multiply_factors(facts: dict[str, Any]) -> Iterator[Way]:
    factors = facts["factors"]
    product, direct, split = factors[0], [], []
    for factor in factors[1:]:
        direct.append(f"{product}*{factor}={product * factor}")
        # 7*23 = 7*20 + 7*3, and 7*8 = 7*5 + 7*3
        ones = factor % 10 if factor > 10 else factor - 5
        if ones > 0 and product >= 0:
            parts = [product * (factor - ones), product * ones]
            split += [
                f"{product}*{factor - ones}={parts[0]}",
                f"{product}*{ones}={parts[1]}",
                *_running(parts),
            ]
        else:
            split.append(direct[-1])
        product *= factor
    yield "direct", direct or [str(product)], product
    yield "split", split or [str(product)], product
    if len(factors) == 2 and min(factors) > 1 and min(factors) <= MAX_STEPS:
        few, step = min(factors), max(factors)
        yield "addition", [_listed(step * count for count in range(1, few + 1))], product


def _running(terms: list[int]) -> list[str]:
    """The sums from left to right: [50, 60, -10] -> ["50+60=110", "110-10=100"]."""
    lines, so_far = [], terms[0]
    for term in terms[1:]:
        lines.append(f"{so_far}{term:+d}={so_far + term}")
        so_far += term
    return lines


def _euclid(numbers: list[int]) -> list[str]:
    """Euclid's remainders: [18, 48] -> ["48%18=12", "18%12=6", "12%6=0"]."""
    lines, result = [], numbers[0]
    for number in numbers[1:]:
        large, small = max(result, number), min(result, number)
        while small:
            lines.append(f"{large}%{small}={large % small}")
            large, small = small, large % small
        result = large
    return lines


def _subtract(numbers: list[int]) -> list[str]:
    """The smaller from the larger until both are equal: [18, 48] -> ["48-18=30", ..., "12-6=6"]."""
    lines, result = [], numbers[0]
    for number in numbers[1:]:
        large, small = max(result, number), min(result, number)
        while large != small and len(lines) <= MAX_STEPS:
            lines.append(f"{large}-{small}={large - small}")
            large, small = max(small, large - small), min(small, large - small)
        result = small
    return lines


def _factors(number: int) -> str:
    from sympy import factorint

    return "*".join(map(str, factorint(number, multiple=True))) or "1"


def _listed(numbers: Any) -> str:
    return ",".join(map(str, numbers))


# Generator -> the ways to solve its problems, from their facts.
WAYS: dict[str, Callable[[dict[str, Any]], Iterator[Way]]] = {
    "simple_equations": _solve_equation,
    "simple_geometry": _find_angle,
    "gcd": _find_gcd,
    "leg_counting": _count_legs,
    "letter_counting": _count_letters,
    "chain_sum": _add_terms,
    "products": _multiply_factors,
}
