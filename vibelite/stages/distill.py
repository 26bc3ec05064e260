"""Offline self-distillation: a trained model's own verified solutions become traces for SFT.

VibeThinker-3B report: rejection sampling by the verifiers, a learning-potential score under the
student, domain x length buckets, and the middle-to-high band of each. An `sft` stage after this one
names it under `traces`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from vibelite.algorithms.learning_potential import ScoredTrace, select_traces
from vibelite.data.batching import TrainingSequence, pack, split_by_tokens
from vibelite.data.chat import trace_ids
from vibelite.errors import DataError
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import DistillStage
from vibelite.run_dir import read_jsonl, write_json_atomic, write_jsonl_atomic
from vibelite.stages.context import DISTILLED, StageContext
from vibelite.stages.engines import close_engine
from vibelite.stages.sampling import SampleRequest, collect_samples
from vibelite.stages.window import positions_of
from vibelite.types import Message, Problem

# Into which the traces of each sub-domain are sorted.
NUM_LENGTH_BUCKETS = 4
Trace = tuple[dict[str, Any], TrainingSequence]


def run(stage: DistillStage, context: StageContext) -> None:
    """Leaves traces.jsonl, which `context.traces` reads, and distillation.json, what became of the
    samples. DataError when no trace is left.
    """
    problems = context.problems(stage.problems)
    model = context.model_of(stage.start_from)
    request = SampleRequest(
        model, problems, stage.sampling, stage.num_samples, context.seed("samples")
    )
    collect_samples(request, context.stage_dir.samples_path, context, {})
    context.recorder.record_work("sample", num_problems=len(problems))

    verified = verified_traces(context.stage_dir.samples_path, problems)
    close_engine(context)  # the student needs its memory
    with context.meter.span("load"):
        student = load_policy(context.model_of(stage.student), dtype=context.recipe.training.dtype)
    fitting = [
        (row, sequence)
        for row, sequence in tokenised(student, verified, context)
        if len(sequence.token_ids) <= (positions_of(student.model.config) or math.inf)
    ]
    rows = [row for row, _ in fitting]
    with context.meter.span("score"):
        scored = score_traces(student, fitting, stage.tokens_per_micro_batch)
    context.recorder.record_work("score", num_traces=len(rows))
    selection = select_traces(
        scored,
        min_tokens=stage.min_tokens,
        num_length_buckets=NUM_LENGTH_BUCKETS,
        keep_from=stage.keep_from,
        max_per_problem=stage.max_per_problem,
    )
    report = {
        "num_samples": len(problems) * stage.num_samples,
        "num_verified": len(verified),
        "num_chosen": len(selection.chosen),
        "dropped": selection.dropped
        | {"longer than the student's positions": len(verified) - len(rows)},
        "nats_per_token": fmean(trace.score for trace in scored) if scored else None,
    }
    write_json_atomic(context.stage_dir.path / "distillation.json", report)
    if not selection.chosen:
        raise DataError(f"stage {stage.name!r}: no trace is left: {json.dumps(report)}")
    write_jsonl_atomic(
        context.stage_dir.path / DISTILLED,
        [
            rows[i] | {"nats_per_token": scored[i].score, "num_tokens": scored[i].num_tokens}
            for i in selection.chosen
        ],
    )
    context.stage_dir.finish(models={}, **report)


def verified_traces(samples: Path, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """A conversation for every correct sample; equal solutions of a problem once."""
    by_id = {problem.id: problem for problem in problems}
    traces: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_jsonl(samples):
        if row["correct"] is not True:
            continue
        problem = by_id[row["problem_id"]]
        messages: list[Message] = [
            *problem.messages[:-1],
            # As it was shown: the options of a choice stand in another order for every sample.
            {**problem.messages[-1], "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        traces.setdefault(
            (problem.id, row["completion"]),
            {"problem_id": problem.id, "subdomain": problem.subdomain, "messages": messages},
        )
    return list(traces.values())


def tokenised(
    student: Policy, rows: Sequence[dict[str, Any]], context: StageContext
) -> list[Trace]:
    """The rows, each with its conversation as the student reads it."""
    tokenizer, settings = student.tokenizer, context.recipe.data
    ids = (trace_ids(tokenizer, row["messages"], settings, row=row["problem_id"]) for row in rows)
    return [(row, TrainingSequence(*found)) for row, found in zip(rows, ids, strict=True)]


@torch.no_grad()
def score_traces(
    student: Policy, traces: Sequence[Trace], tokens_per_micro_batch: int
) -> list[ScoredTrace]:
    """Negative log-likelihood of every answer under the student, in nats per token, in order."""
    lengths = [len(sequence.token_ids) for _, sequence in traces]
    scores = [0.0] * len(traces)
    for indices in split_by_tokens(lengths, tokens_per_micro_batch):
        chosen = [traces[index][1] for index in indices]
        logprobs, _ = student.logprobs(pack(chosen, student.device))
        counts = [sequence.num_trained for sequence in chosen]
        for index, part in zip(indices, logprobs.double().split(counts), strict=True):
            scores[index] = -part.mean().item()
    return [
        ScoredTrace(row["problem_id"], row["subdomain"], sequence.num_trained, score)
        for (row, sequence), score in zip(traces, scores, strict=True)
    ]
