"""Test-time scaling by claim-level reliability, what `vibelite eval --clr` does (VibeThinker-3B
report).

Of every sampled solution the model states the M claims that its answer depends on, then judges each
by itself, in a conversation of its own. The prompts are ours: the report prints none. A solution
that does not yield M claims, and a judgement that is neither yes nor no, count as 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.algorithms.statistics import mean_with_interval
from vibelite.algorithms.votes import reliability, weighted_vote
from vibelite.data.chat import prompt_ids
from vibelite.rewards.answer_text import after_thinking, boxed_answer
from vibelite.rollout.engine import SamplingSettings
from vibelite.run_dir import append_jsonl, read_jsonl
from vibelite.stages.context import StageContext
from vibelite.stages.evaluation_samples import SampleRequest, repair
from vibelite.stages.sharing import open_engine, opened
from vibelite.types import Message

CLAIM_TOKENS = 512
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
# (problem id, sample) -> what was found for it.
Found = dict[tuple[str, int], list[Any]]


def add_reliabilities(
    request: SampleRequest, directory: Path, context: StageContext, num_claims: int
) -> list[dict[str, Any]]:
    """The rows of directory/samples.jsonl without texts, each with the "reliability" of its
    solution.

    Claims and judgements are kept in claims-M.jsonl and judgements-M.jsonl beside it; the same call
    goes on where an earlier one was stopped. Only solutions with an answer are asked about.
    """
    samples = [row for row in read_jsonl(directory / "samples.jsonl") if row.get("answer")]
    questions = {(row["problem_id"], row["sample"]): row["prompt"] for row in samples}
    stating = {
        (row["problem_id"], row["sample"], 0): STATE.format(
            question=row["prompt"], solution=visible(row["completion"]), count=num_claims
        )
        for row in samples
    }
    claims: Found = {
        key[:2]: read_claims(text, num_claims)
        for key, text in ask(
            stating, request, directory / f"claims-{num_claims}.jsonl", context
        ).items()
    }
    judging = {
        (*key, number): JUDGE.format(question=questions[key], claim=claim)
        for key, stated in claims.items()
        for number, claim in enumerate(stated)
    }
    verdicts: Found = {key: [] for key in questions}
    for key, text in ask(
        judging, request, directory / f"judgements-{num_claims}.jsonl", context
    ).items():
        verdicts[key[:2]].append(read_judgement(text))
    return [
        {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        | {"reliability": reliability(verdicts.get((row["problem_id"], row["sample"]), []))}
        for row in read_jsonl(directory / "samples.jsonl")
    ]


def clr_result(
    samples: Sequence[Mapping[str, Any]], num_claims: int, *, num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """CLR@n over problems with its interval, the number of ties, and the mean reliability of right
    and of other solutions, which says whether the judgements tell them apart.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in samples:
        groups.setdefault(row["problem_id"], []).append(row)
    votes = [
        weighted_vote(
            [row.get("answer") for row in group],
            [row["correct"] is True for row in group],
            [row["reliability"] for row in group],
        )
        for group in groups.values()
    ]
    score, low, high = mean_with_interval(
        [score for score, _ in votes], num_bootstrap=num_bootstrap, seed=seed
    )
    by_verdict = {
        is_right: [row["reliability"] for row in samples if (row["correct"] is True) == is_right]
        for is_right in (True, False)
    }
    return {
        "clr_at_n": score,
        "clr_at_n_ci": [low, high],
        "num_ties": sum(num_winners > 1 for _, num_winners in votes),
        "num_claims": num_claims,
        "reliability_of_correct": fmean(by_verdict[True]) if by_verdict[True] else None,
        "reliability_of_others": fmean(by_verdict[False]) if by_verdict[False] else None,
    }


def ask(
    questions: Mapping[tuple[str, int, int], str],
    request: SampleRequest,
    path: Path,
    context: StageContext,
) -> dict[tuple[str, int, int], str]:
    """A greedy answer to every question, in the order of the questions; `path` grows as they end,
    and those that it already has are not asked again.
    """
    repair(path)
    known = {
        (row["problem_id"], row["sample"], row["number"]): row["text"] for row in read_jsonl(path)
    }
    missing = [key for key in questions if key not in known]
    if missing:
        for key, text in draw(missing, [questions[key] for key in missing], request, context):
            problem_id, sample, number = key
            row = {"problem_id": problem_id, "sample": sample, "number": number, "text": text}
            append_jsonl(path, [row])
            known[key] = text
            if reason := context.recorder.reason_to_stop():
                raise reason
        context.recorder.record_work("evaluate", asked=len(missing))
    return {key: known[key] for key in questions}


def draw(
    keys: Sequence[tuple[str, int, int]],
    questions: Sequence[str],
    request: SampleRequest,
    context: StageContext,
) -> Iterator[tuple[tuple[str, int, int], str]]:
    """(key, answer) as answers end."""
    policy, engine = open_engine(request.model, request.sampling, context)
    tokens = min(CLAIM_TOKENS, request.sampling.max_new_tokens)
    settings = SamplingSettings(1, tokens, temperature=0.0)
    conversations: list[list[Message]] = [[{"role": "user", "content": text}] for text in questions]
    prompts = [
        prompt_ids(policy.tokenizer, messages, context.recipe.data.system_prompt)
        for messages in conversations
    ]
    with opened(engine, context), context.meter.span("rollout"):
        for place, _, completion in engine.stream(prompts, settings, seed=request.seed):
            generated = len(completion.token_ids)
            context.meter.add_tokens(prompt=len(prompts[place]), generated=generated)
            yield keys[place], completion.text


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
