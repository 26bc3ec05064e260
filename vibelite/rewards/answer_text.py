"""The final answer in a completion, plain numbers, and answers that must be the expected number,
letter or word. Nothing is evaluated, not even by the generators' own scorers: some reward any text
that contains the answer, some evaluate it. All takes time linear in the text: it runs in the
trainer's own process.
"""

from __future__ import annotations

import re
from fractions import Fraction

from vibelite.errors import DataError
from vibelite.types import Verdict

# A box stands at the end of an answer; a 64K-token chain of thought before it need not be scanned.
TAIL_CHARS = 50_000
# More digits than any real answer has; bounds the cost of exact arithmetic.
MAX_DIGITS = 400
NO_BOX = "no boxed answer"
# With braces; or without them, one sign as TeX reads it, or a number that ends its formula.
_BOX = re.compile(
    r"\\(?:boxed|fbox)(?:\s*\{|\s+(?:([0-9A-Z])(?=[.;]?\s*\Z|\.\s)"
    r"|([+-]?[0-9]{1,400}(?:\.[0-9]{1,400})?|[A-Z])(?=\s*(?:\$|\\[)\]]))))"
)
_GSM8K = re.compile(r"####[ \t]*(\S[^\n]*)\s*\Z")
_UNUSABLE = ("nan", "none", "null", "n/a", "proof", "see solution", "not found", "unknown", "-")
# What stands between two boxes that are one answer: "\boxed{1} and $x = \boxed{2}".
_GAP = r"(?:[\s$~]|\\(?:quad|qquad|[,;: ()]))*"
_JOINT = re.compile(
    rf"{_GAP}(?:,|;|and|or|\\text\{{\s*(?:and|or)\s*\}}){_GAP}(?:and|or)?{_GAP}"
    rf"(?:[A-Za-z](?:_\{{?[0-9A-Za-z]\}}?)?\s*=\s*)?"
)
MAX_JOINT_CHARS = 40
# Of chat templates: a model that writes them into its answer has lost the thread.
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|<\uff5c")
_INTEGER = rf"[0-9]{{1,{MAX_DIGITS}}}"
_FIXED = rf"(?:{_INTEGER}\.[0-9]{{0,{MAX_DIGITS}}}|\.?{_INTEGER})"
_DECIMAL = re.compile(rf"([+-]?)({_FIXED})")
_SCIENTIFIC = re.compile(
    rf"([+-]?)({_FIXED})(?:[eE]|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*)\{{?\s*([+-]?[0-9]{{1,3}})\s*\}}?"
)
_REPEATING = re.compile(
    rf"([+-]?)([0-9]{{1,{MAX_DIGITS}}})?\.([0-9]{{0,40}})"
    r"(?:\\overline\s*\{([0-9]{1,40})\}|\\dot\s*\{?([0-9])\}?)"
)
_RATIO = re.compile(rf"([+-]?)({_INTEGER})\s*/\s*([+-]?{_INTEGER})")
_LATEX_RATIO = re.compile(
    rf"([+-]?)\s*\\[dtc]?frac\s*(?:\{{\s*([+-]?{_INTEGER})\s*\}}|([0-9]))"
    rf"\s*(?:\{{\s*([+-]?{_INTEGER})\s*\}}|([0-9]))"
)
_MIXED = re.compile(
    rf"([+-]?)({_INTEGER})(?:\s*\\[dtc]?frac\s*(?:\{{\s*({_INTEGER})\s*\}}|([0-9]))"
    rf"\s*(?:\{{\s*({_INTEGER})\s*\}}|([0-9]))|\s+({_INTEGER})/({_INTEGER}))"
)
# A minus belongs to the number unless something stands before it: "7-2" are 7 and 2. A run of
# digits and commas is taken whole and read afterwards.
_NUMBER = re.compile(r"(?:(?<![0-9A-Za-z).])-)?[0-9][0-9,]*(?:\.[0-9]+|/[0-9]+)?")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+")


def boxed_answer(text: str) -> tuple[str | None, str]:
    """Content of the last box after the thinking, or None and why there is none."""
    final = after_thinking(text)
    if final is None:
        return None, "unclosed <think>"
    boxed = last_box(final)
    if boxed is None:
        return None, NO_BOX
    if _SPECIAL_TOKEN.search(boxed):
        return None, "a special token in the box"
    return boxed, ""


def judge(correct: bool, boxed: str) -> Verdict:
    """The binary verdict on a boxed answer, with what was boxed if it is wrong."""
    return Verdict(float(correct), correct, "correct" if correct else f"wrong: {boxed[:80]}")


def check_procedural(text: str, answer: str) -> Verdict:
    r"""The final answer equals `answer`: as exact numbers, or else as text.

    It is the last \boxed{} after the thinking; where the right answer is a number and there is no
    box, the last number: small pretrained models answer in plain words.
    """
    boxed, failure = boxed_answer(text)
    expected = parse_rational(answer)
    if boxed is None and expected is not None and failure == NO_BOX:
        boxed = last_number(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    given = parse_rational(boxed)
    if expected is not None and given is not None:
        return judge(expected == given, boxed)
    return judge(_as_text(boxed) == _as_text(answer), boxed)


def check_exact(text: str, answer: str) -> Verdict:
    r"""The last \boxed{} is the answer, sign for sign, but for white space and a \text{}."""
    boxed, failure = boxed_answer(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    return judge(_as_text(boxed) == _as_text(answer), boxed)


def _as_text(answer: str) -> str:
    for wrapper in ("\\text{", "\\mathrm{", "\\textbf{"):
        if answer.startswith(wrapper) and answer.endswith("}"):
            answer = answer[len(wrapper) : -1]
    return " ".join(answer.split())


def final_gold(answer: str) -> str:
    r"""The answer at the end of a gold: of a worked solution its last box, or what follows "####".

    "so $x=\\boxed{7}$." -> "7", "6*7=42\\n#### 42" -> "42". Raises DataError for a gold that no
    answer can equal, such as NaN or "proof".
    """
    gold = answer.strip()
    if match := _GSM8K.search(gold):
        gold = match[1].strip()
    elif "\\boxed" in gold or "\\fbox" in gold:
        gold = last_box(gold) or ""
    if (answer.strip() and not gold) or gold.rstrip(".").casefold() in _UNUSABLE:
        raise DataError(f"the answer {answer[:80]!r} is none that a completion could equal")
    return gold


def after_thinking(text: str) -> str | None:
    """The text after the last </think>; None if a <think> is still open."""
    _, separator, tail = text.rpartition("</think>")
    if "<think>" in tail:
        return None
    return tail if separator else text


def last_box(text: str) -> str | None:
    r"""Content of the last \boxed{} or \fbox{}; None if there is none, or it is empty or open.

    A box inside a box gives the inner content; boxes that only "and", "or" or a comma joins are one
    answer: "\boxed{\boxed{7}}" -> "7", "\boxed{1} or \boxed{2}" -> "1, 2".
    """
    tail = text[-TAIL_CHARS:]
    openings = list(_BOX.finditer(tail))
    if not openings:
        return None
    if bare := openings[-1][1] or openings[-1][2]:
        return bare
    end = _closing(tail, openings[-1].end())
    if end is None:
        return None
    contents = [tail[openings[-1].end() : end].strip()]
    start = openings[-1].start()
    for opening in reversed(openings[:-1]):
        end = None if opening[1] or opening[2] else _closing(tail, opening.end(), start)
        if end is None or not _is_joint(tail[end + 1 : start]):
            break
        contents.append(tail[opening.end() : end].strip())
        start = opening.start()
    return ", ".join(reversed(contents)) if all(contents) else None


def _is_joint(between: str) -> bool:
    return len(between) <= MAX_JOINT_CHARS and _JOINT.fullmatch(between) is not None


def _closing(text: str, start: int, stop: int | None = None) -> int | None:
    """Place of the brace that closes the group that `start` is in, before `stop`."""
    depth = 1
    position = start
    while position < (len(text) if stop is None else stop):
        character = text[position]
        if character == "\\":
            position += 2  # an escaped brace is a sign, not a bracket
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position
        position += 1
    return None


def last_number(text: str) -> str | None:
    r"""The last number written in the text, without the commas of thousands.

    None if there is none, or if the text tried to box an answer.

    "so 7 - 2 = 5." -> "5", "it is -1,250" -> "-1250", "x=1/3" -> "1/3", "2,4,6" -> "6".
    """
    tail = text[-TAIL_CHARS:]
    if "\\boxed" in tail or "\\fbox" in tail:
        return None
    numbers = _NUMBER.findall(tail)
    if not numbers:
        return None
    number = numbers[-1].rstrip(",")
    whole = re.match(r"-?[0-9,]*", number)
    assert whole is not None, "an optional prefix always matches"
    if _THOUSANDS.fullmatch(whole[0]):
        return number.replace(",", "")
    return number.rpartition(",")[2]


def parse_rational(text: str) -> Fraction | None:
    r"""Exact value of a number in ASCII digits: integer, decimal, a/b, \frac{a}{b}, mixed number,
    repeating decimal, or decimal times a power of ten up to 10^400; else None.

    "025" -> 25, "-1.50" -> -3/2, "\frac{-2}{4}" -> -1/2, "1\frac12" -> 3/2,
    "0.\overline{3}" -> 1/3, "2.5 \times 10^{3}" -> 2500. Not "1e999": it must not be computed.
    """
    text = text.strip()
    if match := _DECIMAL.fullmatch(text):
        return _signed(match[1], _decimal(match[2]))
    if match := _RATIO.fullmatch(text):
        sign, numerator, denominator = match.groups()
        return _signed(sign, _divide(numerator, denominator))
    if match := _LATEX_RATIO.fullmatch(text):
        return _signed(match[1], _divide(match[2] or match[3], match[4] or match[5]))
    if match := _MIXED.fullmatch(text):
        numerator = match[3] or match[4] or match[7]
        part = _divide(numerator, match[5] or match[6] or match[8])
        return None if part is None else _signed(match[1], int(match[2]) + part)
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int(match[3])
        if abs(exponent) > MAX_DIGITS:
            return None
        return _signed(match[1], _decimal(match[2]) * Fraction(10) ** exponent)
    if match := _REPEATING.fullmatch(text):
        fixed, period = match[3], match[4] or match[5]
        value = Fraction(int((match[2] or "0") + fixed), 10 ** len(fixed))
        value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
        return _signed(match[1], value)
    return None


def _decimal(text: str) -> Fraction:
    whole, _, decimals = text.partition(".")
    return Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))


def _divide(numerator: str, denominator: str) -> Fraction | None:
    return None if int(denominator) == 0 else Fraction(int(numerator), int(denominator))


def _signed(sign: str, value: Fraction | None) -> Fraction | None:
    return -value if sign == "-" and value is not None else value
