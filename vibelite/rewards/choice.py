"""Multiple choice: the letter in the final box, and options in another order for every sample.

Files of such questions put the right option where they like, often always first; a model that
prefers a letter would be scored by that. Nothing here reads letters out of prose.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vibelite.errors import DataError
from vibelite.rewards.answer_text import boxed_answer, judge
from vibelite.types import Problem, Verdict

LETTERS = "ABCDEFGHIJ"
# Where a shuffled problem says which of the options as they were given stands at which letter.
PERMUTATION = "permutation"
# Puts the answer where the verifier looks for it.
INSTRUCTION = "Put the letter of your choice, and nothing else, in \\boxed{} at the end."
_LABEL = re.compile(r"^([A-J])[.)] ", re.MULTILINE)
_WRAPPER = re.compile(
    r"(?:\\(?:text|mathrm|textbf|mathbf|textit|mathit|mathsf|mathtt|texttt|rm|bf)\s*)?\{([^{}]*)\}"
)
_MARKS = re.compile(r"[$*]|\\(?:(?:rm|bf|checkmark)(?![A-Za-z])|[,;:! ])")
_PREFIX = re.compile(r"^(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is\b|:)?\s*", re.I)
# A letter alone, or as a label before text; a bare letter before text may be a word ("A cat").
_ANSWER = re.compile(r"(?:\(([A-J])\)|([A-J])[.):])(?:\s*(.*))?|([A-J])", re.I | re.S | re.A)
_SECOND = re.compile(r"\([A-J]\)|\b[A-J][.)](?:\s|$)|^(?:and|or|,|/|&)")
# Options that speak of the others keep their place, which in a good question is the last one.
_REFERS = re.compile(r"\bof the above\b", re.I)


@dataclass(frozen=True, slots=True)
class Question:
    """The text of a question in its parts: stem, options, and what comes after them."""

    stem: str
    options: tuple[str, ...]
    ending: str

    def render(self, order: Sequence[int]) -> str:
        """The text with option `order[i]` at letter i."""
        lines = [f"{LETTERS[i]}. {self.options[option]}" for i, option in enumerate(order)]
        return "\n".join([self.stem, *lines]) + (f"\n\n{self.ending}" if self.ending else "")


def check_choice(text: str, answer: str) -> Verdict:
    r"""The last \boxed{} after the thinking holds the letter `answer`, alone or as the label of an
    option's text.
    """
    boxed, failure = boxed_answer(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    return judge(read_letter(boxed) == answer, boxed)


def read_letter(boxed: str) -> str | None:
    r"""The one letter that a box names; None for two, for words, and for letters of other scripts.

    "B", "(b)", "\text{B}", "B. 10^-4 eV", "Option B" -> "B"; "A or B", "Bromine", "A = 3" -> None.
    """
    for _ in range(3):  # \textbf{\text{B}}
        boxed = _WRAPPER.sub(r"\1", boxed)
    bare = _PREFIX.sub("", _MARKS.sub(" ", boxed).strip()).strip()
    match = _ANSWER.fullmatch(bare)
    if match is None or (match[3] and _SECOND.search(match[3])):
        return None
    return (match[1] or match[2] or match[4]).upper()


def parse_question(content: str) -> Question | None:
    """A question whose options are lines "A. ...", "B. ...", in order; None for any other text.

    An option may have several lines. The last paragraph is the ending if it says how to answer.
    """
    labels = list(_LABEL.finditer(content))
    starts = [i for i, label in enumerate(labels) if label[1] == "A"]
    if not starts:
        return None
    labels = labels[starts[-1] :]
    if len(labels) < 2 or "".join(label[1] for label in labels) != LETTERS[: len(labels)]:
        return None
    body, separator, ending = content.rpartition("\n\n")
    has_ending = bool(separator) and len(body) >= labels[-1].end()
    if not has_ending or not re.search(r"boxed|letter|answer", ending, re.I):
        body, ending = content, ""
    ends = [label.start() for label in labels[1:]] + [len(body)]
    options = [body[label.end() : end].strip() for label, end in zip(labels, ends, strict=True)]
    stem = content[: labels[0].start()].removesuffix("\n")
    return Question(stem, tuple(options), ending.strip()) if all(options) else None


def question_text(stem: str, options: Sequence[str]) -> str:
    """A question in the form that `parse_question` reads, with an instruction how to answer."""
    question = Question(f"{stem.strip()}\n", tuple(map(str.strip, options)), INSTRUCTION)
    return question.render(range(len(options)))


def check_question(content: str, answer: str) -> None:
    """Raises DataError for a question whose options cannot be shuffled, or without the gold's."""
    question = parse_question(content)
    if question is None:
        raise DataError(
            'the question has no options in lines "A. ...", "B. ...", in this order; '
            "or name the columns of wrong answers in columns.incorrect"
        )
    letters = LETTERS[: len(question.options)]
    if len(answer) != 1 or answer not in letters:
        raise DataError(f"the answer {answer!r} is none of the letters {', '.join(letters)}")


def shuffled(problem: Problem, seed: int, sample: int = 0) -> Problem:
    """The problem with its options in an order that depends on (seed, problem, sample) alone; the
    answer follows its option, and metadata["permutation"][i] is the place, from 0, that the option
    at letter i was given at.

    Problems of other verifiers come back as they are. "... of the above" keeps its place.
    """
    if problem.verifier != "choice":
        return problem
    content = problem.messages[-1]["content"]
    question = parse_question(content)
    if question is None:
        raise DataError(f"problem {problem.id}: no options to shuffle in {content[-200:]!r}")
    moving = [i for i, option in enumerate(question.options) if not _REFERS.search(option)]
    key = hashlib.sha256(f"{seed}\0{problem.id}\0{sample}".encode()).digest()
    targets = list(moving)
    random.Random(int.from_bytes(key, "big")).shuffle(targets)
    order = list(range(len(question.options)))
    for place, option in zip(moving, targets, strict=True):
        order[place] = option
    message = {**problem.messages[-1], "content": question.render(order)}
    return replace(
        problem,
        messages=(*problem.messages[:-1], message),
        answer=LETTERS[order.index(LETTERS.index(problem.answer))],
        metadata={**problem.metadata, PERMUTATION: order},
    )


def letter_shares(letters: Iterable[str | None]) -> dict[str, float]:
    """Share of each letter among the answers, in the letters' order; "none" = no letter was given.

    With shuffled options every letter is right equally often: a share far from that is a habit.
    """
    counts = Counter("none" if letter is None else letter for letter in letters)
    return {letter: counts[letter] / counts.total() for letter in sorted(counts, key=_by_letter)}


def _by_letter(letter: str) -> tuple[bool, str]:
    return letter == "none", letter
