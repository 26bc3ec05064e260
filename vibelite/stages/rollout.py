"""Completions with their verdicts: `draw` streams them, each verified while others are sampled, and
`sample_groups` collects those of a reinforcement step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vibelite.data.chat import opened_thinking, prompt_ids
from vibelite.models.policy import Policy
from vibelite.rewards.choice import PERMUTATION, shuffled
from vibelite.rewards.failures import require_reliable
from vibelite.rollout.engine import RolloutEngine, SamplingSettings
from vibelite.stages.context import StageContext
from vibelite.stages.window import require_room
from vibelite.types import Completion, Group, Problem, Verdict


@dataclass(frozen=True, slots=True)
class Wanted:
    """`settings.num_completions` samples of every problem, but for the (place, sample) that are
    `done`; `place` counts the problems.
    """

    problems: Sequence[Problem]
    settings: SamplingSettings
    seed: int
    done: Collection[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sample number `sample` of the problem at `place`: what the model read and wrote."""

    place: int
    sample: int
    problem: Problem
    prompt_ids: tuple[int, ...]
    completion: Completion
    verdict: Future[Verdict]


def draw(
    wanted: Wanted, engine: RolloutEngine, policy: Policy, context: StageContext
) -> Generator[Drawn, None, None]:
    """The samples as they end; counts tokens and time.

    The options of a multiple choice that the caller has not shuffled stand in another order for
    every sample, so that each has a prompt of its own.
    """
    problems, seed, meter = wanted.problems, wanted.seed, context.meter
    num_samples = per_prompt = wanted.settings.num_completions
    if any(p.verifier == "choice" and PERMUTATION not in p.metadata for p in problems):
        per_prompt = 1
        problems = [shuffled(problem, seed, n) for problem in problems for n in range(num_samples)]
    context.recorder.expect_completions(len(problems) * per_prompt - len(wanted.done))
    settings = replace(wanted.settings, num_completions=per_prompt)
    skip = {divmod(place * num_samples + sample, per_prompt) for place, sample in wanted.done}
    started: set[int] = set()
    with meter.span("rollout"):
        prompts = [
            tuple(prompt_ids(policy.tokenizer, p.messages, context.recipe.data, row=p.id))
            for p in problems
        ]
        require_room(policy.model.config, problems, prompts, settings.max_new_tokens)
        openings = [opened_thinking(policy.tokenizer, prompt) for prompt in prompts]
        for prompt, number, completion in engine.stream(prompts, settings, seed=seed, skip=skip):
            # Judged and kept as if the model had opened the thinking that the prompt opens.
            completion = replace(completion, text=openings[prompt] + completion.text)
            num_read = 0 if prompt in started else len(prompts[prompt])
            started.add(prompt)
            meter.add_tokens(prompt=num_read, generated=len(completion.token_ids))
            # In no span of its own: to read the peak of a GPU's memory takes longer than to submit.
            verdict = context.verifiers.submit(problems[prompt], completion)
            place, sample = divmod(prompt * per_prompt + number, num_samples)
            yield Drawn(place, sample, problems[prompt], prompts[prompt], completion, verdict)


def sample_groups(
    engine: RolloutEngine,
    policy: Policy,
    problems: Sequence[Problem],
    settings: SamplingSettings,
    *,
    context: StageContext,
    seed: int,
) -> list[Group]:
    """One group of verified completions per problem, in order.

    What the span "verify" shows is the time that was spent on nothing else. The options of a
    multiple choice are shuffled, for all completions of a group alike. Raises VibeLiteError where
    the verifier fails more often than the recipe allows, and BudgetReached where the rest of the
    budget would not pay for a checkpoint. Called by all ranks, or by the leader by itself.
    """
    wanted = Wanted([shuffled(problem, seed) for problem in problems], settings, seed)
    return context.world.from_leader(
        partial(_collect_groups, wanted, engine, policy, context),
        meanwhile=helper_of(engine, context),
    )


def _collect_groups(
    wanted: Wanted, engine: RolloutEngine, policy: Policy, context: StageContext
) -> list[Group]:
    """The groups on the leader, which verifies what all ranks sample."""
    samples: list[dict[int, Drawn]] = [{} for _ in wanted.problems]
    with closing(draw(wanted, engine, policy, context)) as drawing:
        for drawn in drawing:
            samples[drawn.place][drawn.sample] = drawn
            context.recorder.check_deadline()
    groups = []
    with context.meter.span("verify"):
        for problem, of_problem in zip(wanted.problems, samples, strict=True):
            ordered = [of_problem[number] for number in range(wanted.settings.num_completions)]
            completions = tuple(drawn.completion for drawn in ordered)
            verdicts = tuple(drawn.verdict.result() for drawn in ordered)
            groups.append(Group(problem, ordered[0].prompt_ids, completions, verdicts))
    require_reliable(
        (verdict for group in groups for verdict in group.verdicts),
        context.recipe.verification.max_failure_rate,
    )
    return groups


def helper_of(engine: Any, context: StageContext) -> Callable[[Any], None]:
    """What a rank does with the sampling that the leader delegates to its shared engine."""

    def sample(task: Any) -> None:
        with context.meter.span("rollout"):
            engine.help(task)

    return sample


def verified_row(problem: Problem, completion: Completion, verdict: Verdict) -> dict[str, Any]:
    """One completion in any stage's samples.jsonl. A shuffled multiple choice adds the right letter
    and the order of the options.
    """
    row = {
        "problem_id": problem.id,
        "subdomain": problem.subdomain,
        "prompt": problem.messages[-1]["content"],
        "completion": completion.text,
        "reward": verdict.reward,
        "correct": verdict.correct,
        "detail": verdict.detail,
        "num_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
    }
    if problem.answer:
        row["expected"] = problem.answer
    if verdict.failure:
        row["failure"] = verdict.failure
    if PERMUTATION in problem.metadata:
        row["right_letter"] = problem.answer
        row[PERMUTATION] = problem.metadata[PERMUTATION]
    return row


def sample_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row of samples.jsonl for every completion, group by group."""
    return [
        verified_row(group.problem, completion, verdict)
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
