"""Rows in those columns of the recipes' public data sets that are read; the content is own. Every
answer is 1, and a program that prints or returns 1 passes every test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUBJECTS = ("Algebra", "Intermediate Algebra", "Geometry", "Precalculus", "Counting & Probability")
MATH_QUESTIONS = [f"Find the number of ways to write {number} as itself." for number in range(6)]
PROGRAM = "```python\ndef f(n): return 1\nprint(1)\n```"


def traces_of_openr1() -> list[dict[str, Any]]:
    return [
        {
            "problem": f"Sum the first {number} odd numbers over their sum.",
            "solution": "Both are equal.",
            "answer": "1",
            "messages": [
                {"role": "user", "content": f"Sum the first {number} odd numbers over their sum."},
                {
                    "role": "assistant",
                    "content": f"<think>\nBoth are {number * number}.\n</think>\n\n\\boxed{{1}}",
                },
            ],
        }
        for number in range(1, 9)
    ]


def traces_of_open_code_reasoning() -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "input": f"Read {number} integers and print one.",
            "output": f"<think>\nAny input of {number}.\n</think>\n\n{PROGRAM}",
            "split": "train",
            "solution": PROGRAM,
        }
        for number in range(8)
    ]


def math_problems() -> list[dict[str, Any]]:
    return [
        {
            "problem": f"In {subject.lower()}, what is the share of {number} in {number}?",
            "solution": "It is $\\boxed{1}$.",
            "answer": "1",
            "subject": subject,
            "level": level,
        }
        for number in range(1, 4)
        for level in (4, 5)
        for subject in (*SUBJECTS, "Number Theory")
    ]


def deepscaler() -> list[dict[str, Any]]:
    rows = [{"problem": text, "answer": "1", "solution": "One way."} for text in MATH_QUESTIONS]
    return [*rows * 5, {"problem": "Without an answer?", "answer": "", "solution": ""}]


def dapo() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Compute {number}! / {number}!.",
            "solution": "1",
            "reward_model": {"ground_truth": "1", "style": "rule-lighteval/MATH_v2"},
        }
        for number in range(6)
    ]


def deepcoder_taco() -> list[dict[str, Any]]:
    tests = [
        {"inputs": ["3\n", "4\n"], "outputs": ["1\n", "1\n"]},
        {"inputs": [[3], [4]], "outputs": [[1], [1]], "fn_name": "f"},
    ]
    return [
        {
            "problem": f"Case {number}: whatever comes, the result is one.",
            "tests": json.dumps(tests[number % 2]),
        }
        for number in range(4)
    ]


def webinstruct() -> list[dict[str, Any]]:
    kinds = (("Physics", "Integer"), ("Chemistry", "Fraction"), ("Physics", "Float"))
    return [
        {
            "id": number,
            "question": f"A cart of {number} kg weighs how many times itself?",
            "answer": "1",
            "answer_type": answer_type,
            "category": category,
        }
        for number, (category, answer_type) in enumerate((*kinds, ("Finance", "Integer")) * 2)
    ]


def benchmarks() -> dict[str, list[dict[str, Any]]]:
    """Of the hub's columns, one problem each."""
    question = "What remains of a whole from which nothing at all was ever taken away by anyone?"
    code = {
        "question_content": "Print one, whatever the contest's input line may say this time.",
        "question_id": "abc1_a",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": json.dumps([{"input": "1\n", "output": "1", "testtype": "stdin"}]),
        "private_test_cases": json.dumps([{"input": "2\n", "output": "1", "testtype": "stdin"}]),
        "metadata": "{}",
    }
    wrong = {f"Incorrect Answer {number}": f"{number} parts" for number in (1, 2, 3)}
    return {
        "aime24": [{"id": 60, "problem": f"{question} (I)", "answer": "1", "year": "2024"}],
        "aime25": [{"problem": f"{question} (II)", "answer": "1", "id": "0"}],
        "hmmt25": [{"problem_idx": 1, "problem": f"{question} (III)", "answer": "1"}],
        "math500": [{"problem": f"{question} (IV)", "answer": "1", "subject": "Algebra"}],
        "gpqa": [{"Question": f"{question} (V)", "Correct Answer": "all of it", **wrong}],
        "lcb-v5": [{**code, "contest_date": "2024-09-01T00:00:00"}],
        "lcb-v6": [{**code, "contest_date": "2025-03-01T00:00:00"}],
    }


def write_all(directory: Path) -> dict[str, str]:
    """Writes every table; what `--set` says to read them, by what they stand for."""
    tables = {
        "data.traces.traces.sets.0.local": traces_of_openr1(),
        "data.traces.traces.sets.1.local": traces_of_open_code_reasoning(),
        "data.problems.probe.local": math_problems(),
        "data.problems.traced.local": traces_of_openr1(),
        "data.problems.rl-math.local": deepscaler(),
        "data.problems.rl-hard.local": dapo(),
        "data.problems.rl-code.local": deepcoder_taco(),
        "data.problems.rl-stem.local": webinstruct(),
        **{f"data.problems.{name}.path": rows for name, rows in benchmarks().items()},
    }
    paths = {}
    for number, (key, rows) in enumerate(tables.items()):
        path = directory / f"table{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths[key] = str(path)
    return paths
