"""A model's votes on problems: which sub-domain they belong to, and what their answer is.

Every sample is kept in a file, so that a vote that was interrupted goes on. The prompt is ours: the
report does not say how it labels (VibeThinker report 3.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vibelite.data.probing_set import NO_ANSWER, Candidate, Tally, Vote, count_votes
from vibelite.errors import DataError
from vibelite.recipe.stage_section import Sampling
from vibelite.rewards.answer_text import boxed_answer
from vibelite.rewards.math_answer import check_gold
from vibelite.run_dir import read_jsonl
from vibelite.stages.context import StageContext
from vibelite.stages.sampling import SampleRequest, collect_samples
from vibelite.types import Message, Problem

LABEL = (
    "Which field does the following problem belong to? Do not solve it.\n\nProblem:\n{question}\n\n"
    "The fields are: {fields}. End with the name of exactly one of them in \\boxed{{}}."
)
_TEXT = re.compile(r"\\(?:text(?:bf|rm|it|tt)?|mathrm|mathbf)\s*\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Election:
    """Who votes, on what, and which majorities count.

    `label_samples` and `answer_samples` of each problem (0 = no vote); a majority needs the share
    `min_agreement` of all samples. `verifier` says how answers are compared, and of problems with
    NO_ANSWER the majority's answer becomes their own.
    """

    model: Path
    sampling: Sampling
    label_samples: int
    answer_samples: int
    min_agreement: float
    verifier: str

    def settings(self) -> dict[str, Any]:
        """What the samples depend on, besides model and problems."""
        return {
            "sampling": self.sampling.model_dump(mode="json"),
            "label_samples": self.label_samples,
            "answer_samples": self.answer_samples,
        }


def hold_election(
    problems: Sequence[Problem],
    subdomains: Sequence[str],
    election: Election,
    directory: Path,
    context: StageContext,
    tally: Tally,
) -> list[Candidate]:
    """The problems on which the model is clear, with its votes; what was asked is kept in
    labels.jsonl and answers.jsonl of `directory`. The others are counted in `tally`.
    """
    candidates = [Candidate(problem) for problem in problems]
    if election.label_samples:
        votes = vote_on_subdomains(
            problems, subdomains, election, directory / "labels.jsonl", context
        )
        candidates = [Candidate(problem, votes[problem.id]) for problem in problems]
        candidates = list(filter(None, (_labelled(c, election, tally) for c in candidates)))
    if election.answer_samples:
        asked = [candidate.problem for candidate in candidates]
        votes = vote_on_answers(asked, election, directory / "answers.jsonl", context)
        candidates = [replace(c, answer=votes[c.problem.id]) for c in candidates]
        candidates = list(filter(None, (_answered(c, election, tally) for c in candidates)))
    return candidates


def _labelled(candidate: Candidate, election: Election, tally: Tally) -> Candidate | None:
    vote = candidate.label
    assert vote is not None
    if vote.winner is None or vote.agreement < election.min_agreement:
        tally.dropped["no clear sub-domain"] += 1
        return None
    return replace(candidate, problem=replace(candidate.problem, subdomain=vote.winner))


def _answered(candidate: Candidate, election: Election, tally: Tally) -> Candidate | None:
    vote, problem = candidate.answer, candidate.problem
    assert vote is not None
    if problem.answer != NO_ANSWER:
        return candidate
    if vote.winner is None or vote.agreement < election.min_agreement:
        tally.dropped["no clear answer"] += 1
        return None
    try:
        if election.verifier == "math":
            check_gold(vote.winner)
    except DataError:
        tally.dropped["an answer that cannot be read"] += 1
        return None
    problem = replace(problem, answer=vote.winner, verifier=election.verifier)
    return replace(candidate, problem=problem)


def vote_on_subdomains(
    problems: Sequence[Problem],
    subdomains: Sequence[str],
    election: Election,
    path: Path,
    context: StageContext,
) -> dict[str, Vote]:
    """Id -> the vote on its sub-domain; `path` keeps the samples."""
    fields = ", ".join(subdomains)
    asked = [
        replace(problem, messages=_question(problem, fields), answer=NO_ANSWER, verifier="exact")
        for problem in problems
    ]
    _sample(asked, election.label_samples, election, path, context)
    names = {_plain(name): name for name in subdomains}
    said = ((row["problem_id"], _label(row, names)) for row in read_jsonl(path))
    return _votes(problems, said)


def vote_on_answers(
    problems: Sequence[Problem], election: Election, path: Path, context: StageContext
) -> dict[str, Vote]:
    """Id -> the vote on its answer; `path` keeps the samples. Answers that are the same number
    count as one; a sample that the verifier found right says what the problem's answer is.
    """
    _sample(problems, election.answer_samples, election, path, context)
    golds = {problem.id: problem.answer for problem in problems}
    said = ((row["problem_id"], _answer(row, golds[row["problem_id"]])) for row in read_jsonl(path))
    return _votes(problems, said)


def _sample(
    problems: Sequence[Problem],
    num_samples: int,
    election: Election,
    path: Path,
    context: StageContext,
) -> None:
    seed = context.seed("votes", path.stem)
    request = SampleRequest(election.model, problems, election.sampling, num_samples, seed)
    collect_samples(request, path, context, {})


def _votes(problems: Sequence[Problem], said: Iterable[tuple[str, str | None]]) -> dict[str, Vote]:
    by_id: dict[str, list[str | None]] = {problem.id: [] for problem in problems}
    for problem_id, answer in said:
        by_id[problem_id].append(answer)
    return {problem_id: count_votes(answers) for problem_id, answers in by_id.items()}


def _question(problem: Problem, fields: str) -> tuple[Message, ...]:
    content = LABEL.format(question=problem.messages[-1]["content"], fields=fields)
    return ({"role": "user", "content": content},)


def _label(row: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """The sub-domain in a sample's last box; None for anything else, and where it was cut off."""
    boxed, _ = boxed_answer(row["completion"])
    if boxed is None or row["finish_reason"] == "length":
        return None
    return names.get(_plain(_TEXT.sub(r"\1", boxed)))


def _answer(row: Mapping[str, Any], gold: str) -> str | None:
    if row["correct"] is True and gold != NO_ANSWER:
        return gold
    return None if row["answer"] == NO_ANSWER else row["answer"]


def _plain(name: str) -> str:
    """A name without case, and with blanks, dashes and underscores alike."""
    return re.sub(r"[\s_-]+", "-", name.strip().strip("$.").casefold())
