import json
import time

import pytest

from vibelite.data.sources import load_problems
from vibelite.errors import DataError
from vibelite.recipe.data_section import ProblemTable
from vibelite.rewards.instruct import RULES, holds, read_rules
from vibelite.rewards.verifier import verify
from vibelite.types import Completion, FinishReason, Problem

CASES = [
    ({"rule": "words", "min": 3, "max": 3}, "one two three", True),
    ({"rule": "words", "min": 4}, "one two three", False),
    ({"rule": "words", "max": 2}, "it's well-known", True),
    ({"rule": "words", "min": 4, "max": 4}, "私は学生", True),
    ({"rule": "words", "min": 3, "max": 3}, "три слова тут", True),
    ({"rule": "characters", "max": 5}, "12345", True),
    ({"rule": "characters", "max": 5}, "123456", False),
    ({"rule": "lines", "min": 2, "max": 2}, "a\n\nb", True),
    ({"rule": "sentences", "min": 2, "max": 2}, "One. Two!", True),
    ({"rule": "sentences", "min": 2, "max": 2}, "One. And a half", True),
    ({"rule": "sentences", "max": 1}, "It costs 3.14 dollars", True),
    ({"rule": "sentences", "min": 3, "max": 3}, "Really?! Yes... Good.", True),
    ({"rule": "sentences", "min": 2, "max": 2}, "これは本です。それはペンです。", True),
    ({"rule": "paragraphs", "min": 2, "max": 2}, "one\nstill one\n \n\ntwo", True),
    ({"rule": "bullets", "min": 3, "max": 3}, "List:\n- a\n* b\n  2) c\n-none", True),
    ({"rule": "count", "text": "data", "min": 2, "max": 2}, "Data and data, not database", True),
    ({"rule": "count", "text": "!", "max": 1}, "no! no!", False),
    ({"rule": "keywords", "all": ["cat", "dog"]}, "A dog met a CAT.", True),
    ({"rule": "keywords", "all": ["cat"]}, "concatenate", False),
    ({"rule": "keywords", "none": ["however"]}, "However, no.", False),
    ({"rule": "keywords", "all": ["学生"]}, "私は学生です", True),
    ({"rule": "keywords", "all": ["c++"]}, "I write C++ code", True),
    ({"rule": "order", "texts": ["first", "second"]}, "First, then second", True),
    ({"rule": "order", "texts": ["first", "second"]}, "second, then first", False),
    ({"rule": "order", "texts": ["a", "a"]}, "only a", False),
    ({"rule": "starts", "text": "Dear"}, "dear reader", True),
    ({"rule": "ends", "text": "the end."}, "This is The End.", True),
    ({"rule": "format", "as": "json"}, '{"a": [1, 2]}', True),
    ({"rule": "format", "as": "json"}, '```json\n{"a": 1}\n```', True),
    ({"rule": "format", "as": "json"}, "3", False),
    ({"rule": "format", "as": "json"}, "[" * 100_000, False),
    ({"rule": "format", "as": "lowercase"}, "no capitals, 3", True),
    ({"rule": "format", "as": "uppercase"}, "SHOUT 3", True),
    ({"rule": "format", "as": "uppercase"}, "Shout", False),
    ({"rule": "format", "as": "one_line"}, "a\nb", False),
    ({"rule": "format", "as": "no_comma"}, "a، b", False),
]


@pytest.mark.parametrize(("rule", "answer", "expected"), CASES)
def test_a_rule_holds_where_it_says_so(rule, answer, expected):
    (read,) = read_rules([rule])
    assert holds(read, answer) is expected


def judge(text, *rules, finish_reason: FinishReason = "stop"):
    problem = Problem("p", "s", (), "", "instruct", metadata={RULES: read_rules(list(rules))})
    return verify(problem, Completion((), (), finish_reason, text))


SHORT = {"rule": "words", "max": 3}
CALM = {"rule": "keywords", "none": ["danger"]}


def test_all_rules_must_hold_and_broken_ones_are_named():
    assert judge("quite short", SHORT, CALM).correct is True
    verdict = judge("danger in four words", SHORT, CALM)
    assert verdict.correct is False and verdict.reward == 0.0
    assert verdict.detail == "broken: words (max 3); keywords (none ['danger'])"


def test_only_what_follows_the_thinking_is_read():
    assert judge("<think>a long danger of words</think>\nshort", SHORT, CALM).correct is True
    assert judge("<think>short", SHORT).detail == "unclosed <think>"
    assert judge("<think>short</think>  ", SHORT).detail == "no answer"
    assert judge("short", SHORT, finish_reason="length").detail == "truncated"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], "one rule or more"),
        ("[", "not valid JSON"),
        (["words"], "rule 1: 'words' is none of"),
        ([SHORT, {"rule": "word"}], "rule 2: 'word' is none of words,"),
        ([{"rule": "words"}], "words needs max or min"),
        ([{"rule": "words", "min": "3"}], "min must be a whole number, found '3'"),
        ([{"rule": "words", "min": 1, "text": "a"}], "words has no text"),
        ([{"rule": "count", "min": 1}], "count needs text"),
        ([{"rule": "order", "texts": []}], "texts must be a list of texts"),
        ([{"rule": "format", "as": "yaml"}], "as must be one of json,"),
    ],
)
def test_rules_that_cannot_be_checked_are_errors_when_they_are_read(rules, message):
    with pytest.raises(DataError, match=message):
        read_rules(rules)


def test_rules_come_from_a_column_and_errors_name_the_row(tmp_path):
    path = tmp_path / "instruct.jsonl"
    rows = [
        {"prompt": "Be brief.", "rules": [SHORT]},
        {"prompt": "Be calm.", "rules": json.dumps([CALM])},
        # As a parquet file gives it: every rule has the columns of all.
        {"prompt": "Both.", "rules": [SHORT | {"none": None}, CALM | {"max": None}]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = ProblemTable(source="file", path=path.name, verifier="instruct")
    problems = load_problems(source, recipe_dir=tmp_path, seed=0)
    assert [problem.metadata[RULES] for problem in problems] == [[SHORT], [CALM], [SHORT, CALM]]
    path.write_text(json.dumps({"prompt": "Be brief.", "rules": [{"rule": "short"}]}))
    with pytest.raises(DataError, match=r"instruct.jsonl:1: rules: rule 1: 'short' is none of"):
        load_problems(source, recipe_dir=tmp_path, seed=0)


@pytest.mark.parametrize(
    "answer", [" " * 200_000 + "x", "\n" * 200_000 + "x", "- " * 100_000, ". " * 100_000,
               "a" * 200_000, "a'" * 100_000, "data " * 40_000, "```json\n" * 20_000],
)  # fmt: skip
def test_no_answer_takes_long(answer):
    start = time.process_time()
    for rule, _, _ in CASES:
        holds(rule, answer)
    assert time.process_time() - start < 4
