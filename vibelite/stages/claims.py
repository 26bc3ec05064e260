"""Test-time scaling by claim-level reliability, what `vibelite eval --clr` does (VibeThinker-3B
report).

For every sampled solution the model states the M claims that its answer depends on, then judges
each in a conversation of its own. The prompts are ours: the report prints none. A solution without
M claims, and a judgement that is neither yes nor no, count as 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.algorithms.statistics import mean_with_interval
from vibelite.algorithms.votes import reliability, weighted_vote
from vibelite.rewards.answer_text import after_thinking, boxed_answer
from vibelite.run_dir import read_jsonl
from vibelite.stages.context import StageContext
from vibelite.stages.evaluate import by_problem
from vibelite.stages.sampling import TEXTS, SampleRequest, collect_samples
from vibelite.types import Problem

STATE = (
    "Question:\n{question}\n\nA solution:\n{solution}\n\nList the {count} claims on which the "
    "answer of this solution depends most, one per line, numbered from 1 to {count}. Make each "
    "claim understandable by itself. Do not judge them."
)
JUDGE = (
    "Question:\n{question}\n\nA claim from a solution of this question:\n{claim}\n\nCheck the "
    "claim step by step. Is it true? End with \\boxed{{yes}} or \\boxed{{no}}."
)
_NUMBERED = re.compile(r"^\s{0,8}(?:\*\*)?(\d{1,2})[.):](?:\*\*)?\s*(.+)$")
_YES = re.compile(r"\s*(?:\\text\s*\{\s*)?yes\s*\}?\s*", re.IGNORECASE)


def add_reliabilities(
    request: SampleRequest, directory: Path, context: StageContext, num_claims: int
) -> list[dict[str, Any]]:
    """The rows of directory/samples.jsonl without texts, each with the "reliability" of its
    solution, and how many of its claims' list and judgements were cut off. Only those with an
    answer are asked about; claims-M.jsonl and judgements-M.jsonl next to it keep what was said, and
    the same call goes on where an earlier one was stopped.
    """
    samples = directory / "samples.jsonl"
    solutions = {key_of(row): row for row in read_jsonl(samples) if row.get("answer")}
    stating = {
        key: STATE.format(
            question=row["prompt"], solution=visible(row["completion"]), count=num_claims
        )
        for key, row in solutions.items()
    }
    stated = ask(stating, request, directory / f"claims-{num_claims}.jsonl", context)
    judging = {
        f"{key}#{number}": JUDGE.format(question=solutions[key]["prompt"], claim=claim)
        for key, row in stated.items()
        for number, claim in enumerate(read_claims(row["completion"], num_claims))
    }
    judged = ask(judging, request, directory / f"judgements-{num_claims}.jsonl", context)
    verdicts: dict[str, list[float]] = {}
    num_cut_off: Counter[str] = Counter()
    for key, row in judged.items():
        solution = key.rpartition("#")[0]
        verdicts.setdefault(solution, []).append(read_judgement(row["completion"]))
        num_cut_off[solution] += row["finish_reason"] == "length"
    for key, row in stated.items():
        num_cut_off[key] += row["finish_reason"] == "length"
    return [
        {key: value for key, value in row.items() if key not in TEXTS}
        | {"reliability": reliability(verdicts.get(key_of(row), []))}
        | {"num_cut_off": num_cut_off[key_of(row)]}
        for row in read_jsonl(samples)
    ]


def key_of(row: Mapping[str, Any]) -> str:
    """The name of a solution, which the names of its claims begin with."""
    return f"{row['problem_id']}#{row['sample']}"


def ask(
    questions: Mapping[str, str], request: SampleRequest, path: Path, context: StageContext
) -> dict[str, dict[str, Any]]:
    """Name -> row of the answer that the model of `request` gives, sampled as the solutions are
    (report 3.1), in order; `path` keeps them.
    """
    asked = [
        # Nobody judges the answer; "exact" is the verifier that needs no process.
        Problem(name, "claims", ({"role": "user", "content": text},), "", "exact")
        for name, text in questions.items()
    ]
    collect_samples(replace(request, problems=asked, num_samples=1), path, context, {})
    context.recorder.record_work("sample", asked=len(questions))
    return {row["problem_id"]: row for row in read_jsonl(path)}


def clr_result(
    samples: Sequence[Mapping[str, Any]],
    num_claims: int,
    num_repeats: int = 1,
    *,
    num_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """CLR@n with its interval, the number of ties, and the mean reliability of right and of other
    solutions, which says whether the judgements tell them apart. The samples of a problem are
    `num_repeats` votes of n each, whose mean is its score (report 3.1: 8 of 32).
    """
    scores, num_ties, size = [], 0, 0
    for group in by_problem(samples):
        size = len(group) // num_repeats
        votes = [vote(group[start : start + size]) for start in range(0, size * num_repeats, size)]
        scores.append(fmean(score for score, _ in votes))
        num_ties += sum(num_winners > 1 for _, num_winners in votes)
    score, low, high = mean_with_interval(scores, num_bootstrap=num_bootstrap, seed=seed)
    by_verdict = {
        is_right: [row["reliability"] for row in samples if (row["correct"] is True) == is_right]
        for is_right in (True, False)
    }
    return {
        "clr_at_n": score,
        "clr_at_n_ci": [low, high],
        "n": size,
        "num_repeats": num_repeats,
        "num_ties": num_ties,
        "num_claims": num_claims,
        "num_cut_off": sum(row["num_cut_off"] for row in samples),
        "reliability_of_correct": fmean(by_verdict[True]) if by_verdict[True] else None,
        "reliability_of_others": fmean(by_verdict[False]) if by_verdict[False] else None,
    }


def vote(group: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    """`weighted_vote` of one problem's rows by their reliability."""
    return weighted_vote(
        [row.get("answer") for row in group],
        [row["correct"] is True for row in group],
        [row["reliability"] for row in group],
    )


def visible(completion: str) -> str:
    """The solution without its thinking; all of it where nothing follows."""
    final = after_thinking(completion)
    return final.strip() if final and final.strip() else completion


def read_claims(text: str, count: int) -> list[str]:
    """The claims numbered 1 to `count`; [] unless all are there, each once and in order."""
    final = visible(text)
    numbered = [match.groups() for match in map(_NUMBERED.match, final.splitlines()) if match]
    claims = [claim.strip() for _, claim in numbered]
    numbers = [int(number) for number, _ in numbered]
    return claims if numbers == list(range(1, count + 1)) else []


def read_judgement(text: str) -> float:
    """1 where the box says yes, else 0."""
    boxed, _ = boxed_answer(text)
    return float(boxed is not None and _YES.fullmatch(boxed) is not None)
