"""How many verdicts on mathematical answers a second, and how many of them are right.

    python benchmarks/verifiers.py

One core, one process beside the pool's worker. Every text has a known verdict, so that a fast wrong
one shows. math-verify with its default settings judges the same texts in the same process, in turn
with VibeLite; it is what VibeLite asks too, but last and about the content of one box.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from math_verify import parse, verify

from vibelite.rewards.math_answer import check_math
from vibelite.rewards.pool import VerifierPool
from vibelite.tables import format_table
from vibelite.types import Completion, Problem

RESULT = Path(__file__).parent / "results" / "verifiers.json"
NUM_AIME = 10_000
# math-verify takes 1 to 20 ms for each: enough for three digits.
NUM_RIVAL = 200
NUM_SYMBOLIC = 200
ROUNDS = 5
WORDS = ("so", "we have that", "the sum of all", "$x_{1} = 3$", "is by symmetry", "$\\frac{1}{2}$")


@dataclass(frozen=True, slots=True)
class Case:
    """A completion with its gold, and whether it is right."""

    text: str
    gold: str
    is_right: bool


def reasoning(generator: random.Random, num_chars: int) -> str:
    """Words and inline formulas of about that length, within <think>."""
    words = generator.choices(WORDS, k=num_chars // 13)
    return f"<think>{' '.join(words)}</think>\n"


def aime_cases(num_cases: int, num_chars: int, seed: int) -> list[Case]:
    """Integers from 0 to 999 as models box them; three of ten are another integer."""
    generator, cases = random.Random(seed), []
    for _ in range(num_cases):
        gold = generator.randrange(1000)
        is_right = generator.random() < 0.7
        value = gold if is_right else (gold + generator.randrange(1, 999)) % 1000
        shape = generator.choice(
            ["{0}", "{0:03d}", " {0} ", "{0}.", "\\text{{{0}}}", "x = {0}", "{0}^\\circ", "{0}.0"]
        )
        text = f"{reasoning(generator, num_chars)}The answer is $\\boxed{{{shape.format(value)}}}$."
        cases.append(Case(text, f"{gold:03d}", is_right))
    return cases


def symbolic_cases(num_cases: int, seed: int) -> list[Case]:
    """Surds, quotients, multiples of pi, powers and polynomials in another form; none twice."""
    generator, cases = random.Random(seed), []
    for number in range(num_cases):
        a, b, c = generator.randint(2, 99), generator.choice([2, 3, 5, 7, 11]), number + 2
        is_right = generator.random() < 0.6
        d = a if is_right else a + 1
        gold, boxed = generator.choice(
            [
                (f"{a}\\sqrt{{{b}}}+{c}", f"{c}+\\sqrt{{{d * d * b}}}"),
                (
                    f"\\frac{{{a}+\\sqrt{{{b}}}}}{{{c}}}",
                    f"\\frac{{{d}}}{{{c}}}+\\frac{{\\sqrt{{{b}}}}}{{{c}}}",
                ),
                (f"\\frac{{{a}\\pi}}{{{c}}}", f"\\frac{{{2 * d}}}{{{2 * c}}}\\pi"),
                (f"{a}x^2-{c}", f"-{c}+{d}\\cdot x\\cdot x"),
                (f"{c}\\cdot 2^{{{a}}}", f"{2 * c}\\cdot 2^{{{d - 1}}}"),
            ]
        )
        cases.append(Case(f"The answer is $\\boxed{{{boxed}}}$.", gold, is_right))
    return cases


def judge_in_pool(cases: Sequence[Case], pool: VerifierPool) -> list[bool | None]:
    futures = [
        pool.submit(Problem("p", "s", (), case.gold, "math"), Completion((), (), "stop", case.text))
        for case in cases
    ]
    return [future.result().correct for future in futures]


def judge_here(cases: Sequence[Case]) -> list[bool | None]:
    return [check_math(case.text, case.gold).correct for case in cases]


def judge_by_math_verify(cases: Sequence[Case]) -> list[bool | None]:
    return [verify(parse(f"${case.gold}$"), parse(case.text)) for case in cases]


def processor_seconds() -> float:
    """Of this process and its workers, those that have ended included."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def measure(
    judges: dict[str, tuple[Callable[[Sequence[Case]], list[bool | None]], list[list[Case]]]],
) -> dict[str, Any]:
    """Verdicts a second, and wrong ones, by judge; each round has cases of its own, so that no
    cache of an earlier one helps, and the judges take turns. Where others use the machine too, the
    processor's seconds say more than the clock's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in judges}
    used: dict[str, list[float]] = {name: [] for name in judges}
    num_wrong = dict.fromkeys(judges, 0)
    for place in range(ROUNDS):
        for name, (judge, rounds) in judges.items():
            started, before = time.perf_counter(), processor_seconds()
            verdicts = judge(rounds[place])
            seconds[name].append(time.perf_counter() - started)
            used[name].append(processor_seconds() - before)
            num_wrong[name] += sum(
                verdict is not case.is_right
                for verdict, case in zip(verdicts, rounds[place], strict=True)
            )
    return {
        name: {
            "verdicts_a_round": len(rounds[0]),
            "seconds": [round(value, 4) for value in seconds[name]],
            "median_seconds": round(statistics.median(seconds[name]), 4),
            "processor_seconds": [round(value, 2) for value in used[name]],
            "median_processor_seconds": round(statistics.median(used[name]), 2),
            "verdicts_a_second": round(len(rounds[0]) / statistics.median(seconds[name]), 1),
            "wrong_share": num_wrong[name] / (ROUNDS * len(rounds[0])),
        }
        for name, (_, rounds) in judges.items()
    }


def run(pool: VerifierPool) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for num_chars in (200, 40_000):
        name = f"integers after {num_chars:,} characters"
        num_cases = NUM_AIME if num_chars == 200 else NUM_AIME // 10
        ours = [aime_cases(num_cases, num_chars, seed) for seed in range(ROUNDS)]
        results[name] = measure(
            {
                "vibelite": (lambda cases: judge_in_pool(cases, pool), ours),
                "math-verify": (judge_by_math_verify, [cases[:NUM_RIVAL] for cases in ours]),
            }
        )
    symbolic = [symbolic_cases(NUM_SYMBOLIC, seed) for seed in range(ROUNDS)]
    judge_here(symbolic_cases(5, seed=99))  # imports
    judge_in_pool(symbolic_cases(5, seed=99), pool)
    results["symbolic answers"] = measure(
        {
            "vibelite, in this process": (judge_here, symbolic),
            "vibelite, in one worker": (lambda cases: judge_in_pool(cases, pool), symbolic),
            "math-verify": (judge_by_math_verify, symbolic),
        }
    )
    return results


def main() -> None:
    argument_parser = argparse.ArgumentParser(description=__doc__)
    argument_parser.add_argument("--result", type=Path, default=RESULT)
    result = argument_parser.parse_args().result
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the worker inherits it
    with VerifierPool(num_workers=1) as pool:
        results = run(pool)
    header = ["verdicts_a_second", "median_seconds", "median_processor_seconds", "wrong_share"]
    for title, judges in results.items():
        cells = [[name, *(str(row[key]) for key in header)] for name, row in judges.items()]
        print(format_table([title, *header], cells))
    environment = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "math-verify": version("math-verify"),
        "sympy": version("sympy"),
        "num_cores": 1,
    }
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps({"environment": environment, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
