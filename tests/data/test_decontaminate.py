"""What counts as a repeated evaluation problem, and what does not."""

import random
import string
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies

from tests.benchmark_files import NUM_PROBLEMS, benchmark_file, needs_benchmark_files
from vibelite.data.decontaminate import (
    REPETITION_WORDS,
    ContaminationIndex,
    EvaluationItem,
    build_index,
    group_copies,
    repeated_share,
    windows,
)
from vibelite.data.normalise import without_instructions
from vibelite.tools.decontaminate import read_items

FORMAT = "Let's think step by step and output the final answer within \\boxed{}."
WALK = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards; "
    "find the minutes that the walk takes her."
)
RACE = "Two runners start at opposite ends of a straight track of 400 meters. When do they meet?"
SHORT = "Compute $17 \\cdot 23$."


def index_of(*texts: str) -> ContaminationIndex:
    return build_index([EvaluationItem("eval", str(n), text) for n, text in enumerate(texts)])


RESPELLED: dict[str, Callable[[str], str]] = {
    "the same": lambda text: text,
    "upper case": str.upper,
    "without punctuation": lambda text: text.translate(dict.fromkeys(map(ord, string.punctuation))),
    "punctuation as spaces": lambda text: text.translate(
        dict.fromkeys(map(ord, string.punctuation), " ")
    ),
    "other punctuation": lambda text: text.replace(" ", ", ").replace("$", "\\"),
    "line breaks": lambda text: text.replace(" ", "\r\n"),
    "wide spaces and dashes": lambda text: text.replace(" ", "\u00a0").replace("-", "\u2013"),
    "full-width letters": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in text
    ),
    "inside another text": lambda text: f"Here is one: {text} And what if there are two?",
}


@pytest.mark.parametrize("respell", RESPELLED.values(), ids=RESPELLED)
def test_a_respelled_problem_is_found(respell: Callable[[str], str]) -> None:
    index = index_of(RACE, f"{WALK} {FORMAT}")
    match = index.find(respell(WALK))
    assert match is not None
    assert (match.rule, match.source, match.item) == ("ngram", "eval", "1")


def test_ten_words_are_evidence_and_nine_are_not() -> None:
    index = index_of(RACE)
    words = RACE.split()
    match = index.find("xx " + " ".join(words[2:12]) + " yy")
    assert match is not None
    assert match.text == "start at opposite ends of a straight track of 400"
    assert index.find("xx " + " ".join(words[2:11]) + " yy") is None


def test_the_answer_format_is_no_evidence_even_at_the_end_of_a_short_problem() -> None:
    index = index_of(*(f"{text} {FORMAT}" for text in (WALK, RACE, SHORT)))
    # The last words of an evaluation problem, then the sentence that all prompts end with.
    for ending in ("that the walk takes her.", "When do they meet?", ""):
        assert index.find(f"{ending} {FORMAT}") is None


def test_a_frame_that_no_rule_knows_is_learned_from_the_set() -> None:
    frame = "Answer with one integer and nothing else, as the examiners will read only that."
    problems = [WALK, RACE, "How many of the first ninety primes end with the digit three or five?"]
    index = index_of(*(f"{text} {frame}" for text in problems))
    assert index.find(f"What is 3 times 4? {frame}") is None
    assert index.find(f"When do they meet? {frame}") is None
    assert index.find(RACE) is not None


def test_a_phrase_of_two_problems_is_no_evidence_but_their_own_words_are() -> None:
    phrase = "can be written as m/n where m and n are relatively prime positive integers"
    index = index_of(
        f"The chance that Aya meets Bo before noon on a rainy day {phrase}.",
        f"The area that is common to both circles and to the blue square {phrase}.",
    )
    assert index.find(f"The slope {phrase}.") is None
    assert index.find(f"The square {phrase}.") is None
    match = index.find("The chance that Aya meets Bo before noon on a rainy day is 1/2. Or not?")
    assert match is not None and match.item == "0"


def test_a_passage_of_two_problems_is_evidence_because_it_is_no_phrase() -> None:
    passage = " ".join(f"word{number}" for number in range(35))
    index = index_of(f"{passage}. {RACE}", f"{passage}. {WALK}", SHORT)
    assert index.find(f"Say {passage} again") is not None


def test_a_problem_in_two_evaluation_sets_is_still_evidence() -> None:
    copies = [
        EvaluationItem("one", "a", WALK),
        EvaluationItem("two", "b", WALK.upper()),
        EvaluationItem("three", "c", f"Problem 7. {WALK} Give an integer."),
        EvaluationItem("three", "d", RACE),
    ]
    match = build_index(copies).find(f"Hello. {WALK}")
    assert match is not None and match.source == "one"


def test_copies_are_grouped_by_the_share_of_their_ngrams() -> None:
    owners = {str(n): [0, 1] for n in range(5)} | {str(n): [1, 2] for n in range(5, 9)}
    assert group_copies(owners, [10, 40, 10]) == [0, 0, 2]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("compute 17 cdot 23", True),
        (f"Compute $17 \\cdot 23$? {FORMAT}", True),
        ("Compute $17 \\cdot 23 + 4$.", False),
        ("Now compute 17 cdot 23", False),
    ],
)
def test_a_short_problem_must_be_the_whole_text(text: str, is_found: bool) -> None:
    match = index_of(WALK, f"{SHORT} {FORMAT}").find(text)
    assert (match is not None) == is_found
    if match is not None:
        assert (match.rule, match.item) == ("whole_text", "1")


def test_frames_are_cut_of_rows_as_of_items() -> None:
    frame = "Work it out and write the result in a box, please."
    index = index_of(*(f"{frame} {n} times {n} is what?" for n in range(2, 8)))
    assert index.num_short == {"eval": 6}
    for row in ("3 times 3 is what?", f"{frame.upper()} 3 TIMES 3 IS WHAT"):
        match = index.find(row)
        assert match is not None and (match.rule, match.item) == ("whole_text", "1")
    assert index.find(f"{frame} 8 times 8 is what?") is None
    assert index.find(frame) is None and index.find("3") is None


WORDS = [
    "find",
    "the",
    "sum",
    "of",
    "two",
    "Numbers.",
    "x",
    "1",
    "\\boxed{}",
    "step by step",
    "=",
    "≥",
]
PIECES = strategies.lists(strategies.sampled_from(WORDS), max_size=14).map(" ".join)
FRAMED = strategies.builds("{} {} {}".format, PIECES, strategies.text(max_size=30), PIECES)


@given(strategies.lists(FRAMED | strategies.text(max_size=60), max_size=12))
@settings(max_examples=300, deadline=None)
def test_every_item_of_any_set_finds_itself(texts) -> None:
    index = index_of(*texts)
    for text in texts:
        assert (index.find(text) is not None) is bool(text.strip())


@given(strategies.lists(PIECES, min_size=3, max_size=8), PIECES, PIECES)
@settings(max_examples=200, deadline=None)
def test_so_does_every_item_of_a_set_in_one_frame(texts, beginning, ending) -> None:
    framed = [f"{beginning} {text} {ending}" for text in texts]
    index = index_of(*framed)
    for text in filter(str.strip, framed):
        assert index.find(text) is not None and index.find(text.upper()) is not None


def test_lists_of_symbols_are_no_evidence() -> None:
    index = index_of("Take all of the numbers 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 that sum to twenty.")
    assert index.find("Add up 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.") is None
    assert index.find("Take all of the numbers 1, 2, 3, 4, 5 or 6.") is not None


def test_a_problem_in_one_sentence_with_its_instruction_is_kept_whole() -> None:
    problem = "Explain step by step how many squares fit on a board of nine by seven"
    assert index_of(problem, RACE).find(f"Well then. {problem}!") is not None


def test_matching_is_exact_against_a_plain_search() -> None:
    """Texts of few words, so that runs are interrupted and resumed everywhere."""
    draw = random.Random(0)
    vocabulary = ["alpha", "beta", "gamma"]
    item = " ".join(draw.choices(vocabulary, k=40))
    grams = set(windows(item.split()))
    index = index_of(item, RACE)
    outcomes = []
    for _ in range(300):
        text = " ".join(draw.choices([*vocabulary, "other"], weights=[9, 9, 9, 1], k=60))
        outcomes.append(bool(grams & set(windows(text.split()))))
        assert (index.find(text) is not None) == outcomes[-1]
    part = " ".join(item.split()[11:23])
    assert index.find(f"other {part} other") is not None
    assert index.find(RACE) is not None


def words(number: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices([f"w{n}" for n in range(500)], k=number))


def test_a_text_without_repetition_has_a_share_of_zero() -> None:
    assert repeated_share(words(1000)) == 0


@pytest.mark.parametrize("period", [1, 7, 40, 150])
def test_a_loop_in_the_second_half_has_a_share_of_about_one_half(period: int) -> None:
    loop = words(period, seed=1).split()
    text = words(600) + " " + " ".join((loop * 600)[:600])
    expected = (600 - period - REPETITION_WORDS) / 1200
    assert repeated_share(text) == pytest.approx(expected, abs=0.03)


def test_case_and_punctuation_do_not_hide_a_loop() -> None:
    part = words(40)
    text = " ".join(part.upper() + "!" * n for n in range(10))
    assert repeated_share(text) > 0.8


def test_short_texts_and_short_phrases_are_no_loops() -> None:
    assert repeated_share("wait " * 63) == 0
    steps = [f"We get x = {n} and so f({n}) = {n * n}, which is not prime." for n in range(200)]
    assert repeated_share(" ".join(steps)) == 0


def test_the_share_of_the_shortest_text_that_can_show_a_loop_is_exact():
    assert repeated_share("again " * 64) == 1 - 1 / 49  # 49 runs of 16 words, all the same


@needs_benchmark_files
@pytest.mark.parametrize("respell", RESPELLED.values(), ids=RESPELLED)
def test_every_public_benchmark_problem_is_found_however_it_is_spelled(
    respell: Callable[[str], str],
) -> None:
    items = [item for name in NUM_PROBLEMS for item in read_items(benchmark_file(name))]
    index = build_index(items)
    matches = [index.find(respell(without_instructions(item.text))) for item in items]
    assert None not in matches
    named = [match.item == item.id for match, item in zip(matches, items, strict=True) if match]
    # Two questions of GPQA begin with the same 60 words and count for the first of them.
    assert named.count(False) <= 1


@needs_benchmark_files
def test_what_all_benchmark_prompts_share_is_no_evidence() -> None:
    items = [item for name in NUM_PROBLEMS for item in read_items(benchmark_file(name))]
    index = build_index(items)
    choice = "Please reason step-by-step and put your choice letter without any other text with"
    for item, frame in ((items[0], FORMAT), (items[-1], f"{choice} \\boxed{{}} in the end.")):
        assert item.text.endswith(frame)
        assert index.find(f"What is 12 * 13? {frame}") is None
    phrase = "where $m$ and $n$ are relatively prime positive integers. Find $m+n$."
    assert index.find(f"The answer is $\\frac{{m}}{{n}}$, {phrase} {FORMAT}") is None
