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
    """Two to four verified answers of each problem, and a wrong one; `messages` holds the first."""
    rows = []
    for number in range(1, 9):
        question = f"Sum the first {number} odd numbers over their sum."
        answers = [
            f"<think>\nWay {way}: both are {number * number}.\n</think>\n\n\\boxed{{1}}"
            for way in range(2 + number % 3)
        ]
        turns = (("user", question), ("assistant", answers[0]))
        rows.append(
            {"problem": question, "answer": "1", "source": "own"}
            | {"generations": [*answers, "<think>\nHm.\n</think>\n\n\\boxed{2}"]}
            | {"correctness_math_verify": [*[True] * len(answers), False]}
            | {"messages": [{"role": role, "content": content} for role, content in turns]}
        )
    return rows


def traces_of_open_code_reasoning() -> list[dict[str, Any]]:
    texts = [(f"Read {n} integers and print one.", f"Any input of {n}.") for n in range(8)]
    return [
        {"input": task, "output": f"<think>\n{thought}\n</think>\n\n{PROGRAM}", "split": "train"}
        for task, thought in texts
    ]


def math_problems() -> list[dict[str, Any]]:
    return [
        {"problem": f"In {subject.lower()}, what is the share of {number} in {number}?"}
        | {"answer": "1", "subject": subject, "level": level}
        for number in range(1, 4)
        for level in (4, 5)
        for subject in (*SUBJECTS, "Number Theory")
    ]


def deepscaler() -> list[dict[str, Any]]:
    rows = [{"problem": text, "answer": "1"} for text in MATH_QUESTIONS]
    return [*rows * 5, {"problem": "Without an answer?", "answer": ""}]


def dapo() -> list[dict[str, Any]]:
    gold = {"ground_truth": "1", "style": "rule-lighteval/MATH_v2"}
    questions = [f"Compute {number}! / {number}!." for number in range(6)]
    return [{"prompt": text, "solution": "1", "reward_model": gold} for text in questions]


def deepcoder_taco() -> list[dict[str, Any]]:
    stdin = {"inputs": ["3\n", "4\n"], "outputs": ["1\n", "1\n"]}
    call = {"inputs": [[3], [4]], "outputs": [[1], [1]], "fn_name": "f"}
    return [
        {"problem": f"Case {n}: whatever comes, the result is one.", "tests": json.dumps(tests)}
        for n, tests in enumerate((stdin, call) * 8)
    ]


def webinstruct() -> list[dict[str, Any]]:
    kinds = (("Physics", "Integer"), ("Chemistry", "Fraction"), ("Physics", "Float"))
    return [
        {"question": f"A cart of {n} kg weighs how many times itself?", "answer": "1"}
        | {"answer_type": answer_type, "category": category}
        for n, (category, answer_type) in enumerate((*kinds, ("Finance", "Integer")) * 10)
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
        "aime26": [{"problem_idx": 1, "problem": f"{question} (VI)", "answer": 1}],
        "brumo25": [{"problem_idx": 1, "problem": f"{question} (VII)", "answer": "1"}],
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
        **{f"data.problems.{part}-code.local": deepcoder_taco() for part in ("rl", "probe")},
        **{f"data.problems.{part}-stem.local": webinstruct() for part in ("rl", "probe")},
        **{f"data.problems.{name}.path": rows for name, rows in benchmarks().items()},
    }
    paths = {}
    for number, (key, rows) in enumerate(tables.items()):
        path = directory / f"table{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths[key] = str(path)
    return paths
