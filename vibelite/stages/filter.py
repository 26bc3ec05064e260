"""The traces of a second, harder round of fine-tuning (VibeThinker-3B report 2.1): long, verified
ones of problems that a reference model seldom solves. An `sft` stage after this one names it under
`traces`.

The report keeps traces of at least 5K tokens whose query has an error rate of at least 0.75 in 8
rollouts, and several traces of a query.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import torch

from vibelite.data.chat import trace_ids
from vibelite.data.decontaminate import repeated_share
from vibelite.data.normalise import without_instructions
from vibelite.errors import DataError
from vibelite.models.load import load_policy
from vibelite.recipe.stage_section import FilterStage
from vibelite.rewards.failures import require_reliable
from vibelite.run_dir import read_json, write_json_atomic, write_jsonl_atomic
from vibelite.stages.context import DISTILLED, StageContext
from vibelite.stages.sampling import SampleRequest, collect_samples
from vibelite.types import Completion, Problem, Trace


@dataclass(frozen=True, slots=True)
class Survivor:
    """A trace, by its place, whose text passed; its answer has `num_tokens` tokens."""

    place: int
    problem_id: str
    num_tokens: int


def run(stage: FilterStage, context: StageContext) -> None:
    """Leaves traces.jsonl, which `context.traces` reads, and filtering.json, what became of the
    traces. DataError when none is left.
    """
    problems = context.problems(stage.problems)
    traces = context.traces(stage.traces)
    survivors, dropped = checked_texts(stage, context, traces, problems)
    asked_about = {survivor.problem_id for survivor in survivors}
    asked = [problem for problem in problems if problem.id in asked_about]
    error_rates = measure_error_rates(stage, context, asked)
    chosen = choose(survivors, traces, error_rates, stage, dropped)
    counts = {"num_traces": len(traces), "dropped": dict(+dropped), "num_chosen": len(chosen)}
    counts["num_problems"] = len({survivor.problem_id for survivor in chosen})
    report = counts | {"error_rates": error_rates}
    write_json_atomic(context.stage_dir.path / "filtering.json", report)
    if not chosen:
        raise DataError(f"stage {stage.name!r}: no trace is left: {json.dumps(counts)}")
    rows = [
        {
            "problem_id": survivor.problem_id,
            "subdomain": traces[survivor.place].subdomain,
            "messages": list(traces[survivor.place].messages),
            "num_tokens": survivor.num_tokens,
            "error_rate": error_rates[survivor.problem_id],
        }
        for survivor in chosen
    ]
    write_jsonl_atomic(context.stage_dir.path / DISTILLED, rows)
    context.stage_dir.finish(models={}, **counts)


def checked_texts(
    stage: FilterStage,
    context: StageContext,
    traces: Sequence[Trace],
    problems: Sequence[Problem],
) -> tuple[list[Survivor], Counter[str]]:
    """The traces that pass without rollouts, and how many do not, by reason; kept in a file, as a
    verdict may depend on time, and a resumed stage must go on with the same ones.
    """
    digest = hashlib.sha256(stage.model_dump_json().encode())
    for row in (*traces, *problems):
        digest.update(json.dumps(row.messages).encode())
    path = context.stage_dir.path / f"survivors-{digest.hexdigest()[:16]}.json"
    if not path.exists():
        survivors, dropped = check_texts(stage, context, traces, problems)
        context.recorder.record_work("check", num_traces=len(traces), num_kept=len(survivors))
        kept = [astuple(survivor) for survivor in survivors]
        write_json_atomic(path, {"survivors": kept, "dropped": dict(dropped)})
    known = read_json(path)
    return [Survivor(*values) for values in known["survivors"]], Counter(known["dropped"])


def check_texts(
    stage: FilterStage,
    context: StageContext,
    traces: Sequence[Trace],
    problems: Sequence[Problem],
) -> tuple[list[Survivor], Counter[str]]:
    """Cheap checks first: a problem is known, length, repetition; then the verifier."""
    dropped: Counter[str] = Counter()
    instruction = getattr(context.recipe.data.problems[stage.problems], "instruction", "")
    by_id = {problem.id: problem for problem in problems}
    by_question = {question_key(p.messages, instruction): p for p in reversed(problems)}
    with context.meter.span("load"):
        # Tokens are counted here, and the engine loads the model for itself.
        policy = load_policy(context.model_of(stage.start_from), device=torch.device("cpu"))
    survivors: list[Survivor] = []
    of_place: dict[int, Problem] = {}
    with context.meter.span("tokenize"):
        for place, trace in enumerate(traces):
            question = question_key(trace.messages, instruction)
            problem = by_id.get(trace.problem_id) or by_question.get(question)
            if problem is None:
                dropped["without a problem"] += 1
                continue
            token_ids, num_prompt_tokens = trace_ids(
                policy.tokenizer, trace.messages, context.recipe.data, row=trace.problem_id
            )
            num_tokens = len(token_ids) - num_prompt_tokens
            if num_tokens < stage.min_tokens:
                dropped["too short"] += 1
            elif repeated_share(trace.messages[-1]["content"]) > stage.max_repetition:
                dropped["repetition"] += 1
            else:
                of_place[place] = problem
                survivors.append(Survivor(place, problem.id, num_tokens))
    right = verified(context, {place: (traces[place], p) for place, p in of_place.items()})
    kept = [survivor for survivor in survivors if survivor.place in right]
    dropped["not verified"] += len(survivors) - len(kept)
    return kept, dropped


def question_key(messages: Sequence[Mapping[str, str]], instruction: str) -> str:
    """The letters and digits of what the user asks, without `instruction` and other sentences on
    the answer's form, which a trace of the problem may have and the problem not.
    """
    asked = "\n".join(m["content"] for m in messages if m["role"] == "user")
    if instruction:
        asked = asked.replace(instruction, "")
    key = "".join(filter(str.isalnum, without_instructions(asked)))
    return (key or "".join(filter(str.isalnum, asked))).casefold()


def verified(context: StageContext, traces: Mapping[int, tuple[Trace, Problem]]) -> set[int]:
    """The places of the traces whose answer the verifier finds right."""
    with context.meter.span("verify"):
        pending = {
            place: context.verifiers.submit(
                problem, Completion((), (), "stop", trace.messages[-1]["content"])
            )
            for place, (trace, problem) in traces.items()
        }
        verdicts = {place: future.result() for place, future in pending.items()}
    require_reliable(verdicts.values(), context.recipe.verification.max_failure_rate)
    return {place for place, verdict in verdicts.items() if verdict.correct is True}


def measure_error_rates(
    stage: FilterStage, context: StageContext, problems: Sequence[Problem]
) -> dict[str, float]:
    """Id -> share of the reference model's rollouts that are not right, 0..1; every rollout is kept
    in samples.jsonl, and a resumed stage draws what is missing.
    """
    if not problems:
        return {}
    path = context.stage_dir.samples_path
    model, seed = context.model_of(stage.start_from), context.seed("samples")
    request = SampleRequest(model, problems, stage.sampling, stage.num_samples, seed)
    num_wrong: Counter[str] = Counter()
    for row in collect_samples(request, path, context, {}):
        num_wrong[row["problem_id"]] += row["correct"] is not True
    context.recorder.record_work("sample", num_problems=len(problems))
    return {problem.id: num_wrong[problem.id] / stage.num_samples for problem in problems}


def choose(
    survivors: Sequence[Survivor],
    traces: Sequence[Trace],
    error_rates: Mapping[str, float],
    stage: FilterStage,
    dropped: Counter[str],
) -> list[Survivor]:
    """Those of hard problems: at most `max_per_problem` different texts of each, in order."""
    chosen: list[Survivor] = []
    texts: dict[str, set[str]] = {}
    for survivor in survivors:
        of_problem = texts.setdefault(survivor.problem_id, set())
        text = " ".join(traces[survivor.place].messages[-1]["content"].split())
        if error_rates[survivor.problem_id] < stage.min_error_rate:
            dropped["too easy"] += 1
        elif text in of_problem:
            dropped["the same text again"] += 1
        elif len(of_problem) == stage.max_per_problem:
            dropped["beyond max_per_problem"] += 1
        else:
            of_problem.add(text)
            chosen.append(survivor)
    return chosen
