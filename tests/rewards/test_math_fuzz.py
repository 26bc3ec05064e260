"""No answer holds the verifier or takes it down: random expressions, mutations of them, long runs
of one sign, and bombs. All from fixed seeds.
"""

import random
import time
from collections.abc import Iterator

import pytest

from vibelite.rewards.math_answer import check_math_cheaply
from vibelite.rewards.pool import VerifierPool
from vibelite.types import Completion, Problem

# What the verifier may take for one answer, whatever it is.
SECONDS = 4.0
NUM_RANDOM = 800
GOLDS = (
    "204", "\\sqrt{2}+1", "\\frac{\\pi}{3}", "x^2+1", "\\{1,2\\}", "(1,2)", "[0,1)", "50\\%",
    "\\text{yes}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "2^{100}", "y=2x+1", "n!", "x>3",
    "3:4", "90^\\circ", "\\frac{-1\\pm\\sqrt{17}}{2}", "e^{x}", "\\sum_{k=1}^{n} k",
)  # fmt: skip
ATOMS = (
    "0", "1", "2", "7", "25", "99", "9999", "100000", "1000000000", "3.14", ".5", "1e9", "1/3",
    "x", "n", "i", "e", "\\pi", "\\infty", "a_1", "ABC", "\\text{cm}", "\\text{ and }", "\\alpha",
)  # fmt: skip
BETWEEN = (
    "+", "-", "\\cdot ", "/", "^", "_", ",", "=", "<", "\\le ", "\\pm ", "\\cup ", ":", "!",
    "\\choose ", "&", "\\\\", " or ", "\\mid ", "\\equiv ", "\\ldots ",
)  # fmt: skip
AROUND = (
    "\\sqrt{@}", "\\frac{@}{@}", "\\sqrt[@]{@}", "(@)", "[@,@)", "\\{@,@\\}", "@!", "@!!", "{@}^@",
    "\\binom{@}{@}", "{@ \\choose @}", "\\sin @", "\\cos(@)", "\\log_{@} @", "\\ln @", "e^{@}",
    "@^{@}", "@^{@^{@}}", "\\sum_{k=1}^{@} @", "\\prod_{k=1}^{@} @", "\\int_0^{@} @ dx", "|@|",
    "\\begin{pmatrix}@&@\\\\@&@\\end{pmatrix}", "\\lfloor @ \\rfloor", "\\boxed{@}", "\\text{@}",
    "@\\%", "@^\\circ", "\\overline{@}", "\\exp(@)", "\\arctan @", "\\Gamma(@)", "@ \\bmod @",
    "\\pmod{@}", "\\tan^{-1}(@)", "\\gcd(@,@)", "\\max(@,@)", "f(@)", "\\zeta(@)",
    "\\lim_{x\\to @} @",
)  # fmt: skip
MARKS = "{}()[]^_\\$%&!,.0123456789xein ²√π−½\u200b\x00"
BOMBS = (
    "9^9^9^9", "9^{9^{9^9}}", "9^{9^{9^{9^9}}}", "10^{10^{10}}!", "(10^{10})!", "100000000!",
    "\\binom{10^9}{5 \\cdot 10^8}", "{10^9 \\choose 10^8}", "2^{25!}", "\\frac{1}{2^{10^9}}",
    "\\sin(10^{100000})", "\\exp(\\exp(\\exp(100)))", "((5!)!)!", "\\Gamma(10^9)", "1^{10^{12}}",
    "\\sqrt[100000]{ABC}", "\\sum_{n=1}^{10^9} n^{-2}", "\\prod_{n=1}^{10^6} n", "x^{x^{x^{x^9}}}",
    "(" * 900 + "1" + ")" * 900, "\\sqrt{" * 300 + "2" + "}" * 300, "+".join(["\\sqrt{2}"] * 220),
    "1+\\frac{1}{" * 150 + "2" + "}" * 150, "9" * 1_000_000, "0." + "3" * 1_900, "x" * 1_900,
    ",".join(["1"] * 999), ",".join(["\\pi"] * 600), "\\{" * 900, "=".join("x" * 900),
    "\\begin{pmatrix}" + "&".join("12345678") + "\\\\" * 9 + "\\end{pmatrix}", "1:" * 900 + "1",
    "\\pm" * 600, "\\text{" * 300, "\\le".join("x" * 600), "\\cup".join("x" * 400), "-" * 1_900,
)  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(num_workers=2) as pool:
        yield pool


def expression(generator: random.Random, depth: int) -> str:
    if depth == 0 or generator.random() < 0.15:
        return generator.choice(ATOMS)
    form = generator.choice(AROUND)
    if generator.random() < 0.35:
        form = f"@{generator.choice(BETWEEN)}@"
    parts = form.split("@")
    filled = [parts[0]]
    for part in parts[1:]:
        filled += [expression(generator, depth - 1), part]
    return "".join(filled)


def mutated(generator: random.Random, text: str) -> str:
    for _ in range(generator.randint(0, 3)):
        place = generator.randrange(len(text) + 1)
        match generator.randrange(3):
            case 0:
                text = text[:place] + text[place + 1 :]
            case 1:
                text = text[:place] + generator.choice(MARKS) + text[place:]
            case _:
                text = text[:place] + text[max(0, place - 6) : place + 6] + text[place:]
    return text


def random_answers() -> Iterator[tuple[str, str]]:
    generator = random.Random(20_26)
    for _ in range(NUM_RANDOM):
        answer = mutated(generator, expression(generator, generator.randint(1, 4)))
        yield f"\\boxed{{{answer}}}", generator.choice(GOLDS)


def bombs() -> Iterator[tuple[str, str]]:
    for place, bomb in enumerate(BOMBS):
        yield f"\\boxed{{{bomb}}}", "\\sqrt{2}+1"
        yield f"\\boxed{{{bomb}}}", GOLDS[place % len(GOLDS)]
    yield from ((f"\\boxed{{{bomb}", "204") for bomb in ("{" * 100_000, "\\boxed{" * 20_000))


def test_no_answer_holds_the_verifier_or_takes_it_down(pool: VerifierPool) -> None:
    all_bombs = list(bombs())
    cases = [*all_bombs, *random_answers()]
    pending = [
        pool.submit(Problem("p", "s", (), gold, "math"), Completion((), (), "stop", text))
        for text, gold in cases
    ]
    verdicts = [future.result(timeout=120) for future in pending]
    assert [
        (text[:200], gold, verdict.detail[:200], future.seconds)
        for (text, gold), verdict, future in zip(cases, verdicts, pending, strict=True)
        if future.seconds > SECONDS or verdict.failure == "crash"
    ] == []
    assert all(verdict.reward == float(verdict.correct is True) for verdict in verdicts)
    assert all(verdict.detail for verdict in verdicts)
    assert not any(verdict.correct for verdict in verdicts[: len(all_bombs)])
    num_failures = sum(verdict.failure is not None for verdict in verdicts)
    assert num_failures <= len(cases) / 100, "the guard lets too much through"


@pytest.mark.parametrize(
    "sign",
    [
        "(", "{", "[", "\\{", "^", "_", "!", ",", " ", "\\ ", "=", "<", "-", "\\pm ", "\\text{",
        "a", "9", "9,", "1 ", "\\frac", "\\sqrt", "\\left(", "\\boxed{", "x=", "\\circ", "½", "√",
        "²", ".", "\\%", "\\text{a}", "\\begin{array}", "1:", " mod ", "\\pmod", "or ", "cm ",
        "\\approx ", "\\cup ", "\\text{ and }", "{}", "\\frac{1}{", "\\dot", "\\overline{", "e^",
        "(x,", "5 cm ", "per ",
    ],
)  # fmt: skip
def test_what_runs_in_the_trainer_takes_time_linear_in_the_text(sign: str) -> None:
    """Text of one repeated sign is where a regular expression with two ways to match is slow."""
    for size in (1_990, 49_000, 400_000):
        text = f"\\boxed{{{(sign * size)[:size]}}}"
        started = time.process_time()
        for gold in ("204", "x^2+1", "\\{1,2\\}"):
            check_math_cheaply(text, gold)
        assert time.process_time() - started < 1.5
