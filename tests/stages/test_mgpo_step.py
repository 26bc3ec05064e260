"""`mgpo_step` against the method written down once more: full logits by transformers' eager
attention, in float64, one completion after the other. The engine and the verdicts follow a script.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.policies import full_logits, tiny_policy
from vibelite.errors import EngineError
from vibelite.models.policy import Policy
from vibelite.pipeline import make_context
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import MGPOStage
from vibelite.rollout.engine import SamplingSettings
from vibelite.run_dir import RunDir, StageDir, read_jsonl
from vibelite.stages.mgpo import Trainer, mgpo_step
from vibelite.telemetry.meter import Meter
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Completion, Problem, Verdict

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_PROBLEMS, NUM_STEPS = 8, 2
TEMPERATURE, LAMBDA = 0.9, 4.0
CLIP_LOW, CLIP_HIGH, CAP = 0.1, 0.3, 1.2
ENTROPY_COEF, KL_COEF = 0.05, 0.1
MAX_NEW_TOKENS, PEAK_LR = 8, 3e-3
RECIPE = f"""
name: step
model: {{source: tiny}}
data: {{problems: {{train: {{source: file, path: train.jsonl}}}}}}
rollout: {{max_mismatch_kl: 1.0}}
stages:
  - kind: mgpo
    start_from: base
    problems: train
    num_steps: {NUM_STEPS}
    tokens_per_micro_batch: 60
    problems_per_step: 4
    group_size: 4
    updates_per_rollout: 2
    maxent_lambda: {LAMBDA}
    entropy_coef: {ENTROPY_COEF}
    kl_coef: {KL_COEF}
    clip_low: {CLIP_LOW}
    clip_high: {CLIP_HIGH}
    importance_cap: {CAP}
    long2short: 0.2
    overlong_margin: 2
    sampling: {{max_new_tokens: {MAX_NEW_TOKENS}, temperature: {TEMPERATURE}}}
    optimizer: {{lr: {PEAK_LR}, schedule: cosine, warmup_fraction: 0.5, final_lr_fraction: 0.1}}
"""


@dataclass(frozen=True)
class Script:
    """What happens to the four completions of one group, whatever the problem."""

    rewards: list[float]
    lengths: list[int]
    shaped: list[float]
    """With strength 0.2 two correct completions of unequal length get 1.2 and 0.8; of 8 tokens the
    7th costs 0.5, and the 8th another 0.5."""
    weight: float
    """exp(-4 KL(p || 1/2)) of the mean reward p: 1 for p = 1/2; for 1/4, 2 / (3/2)^3; for 1, 1/16;
    for 7/16, (8/7)^(7/4) (8/9)^(9/4)."""


SCRIPTS = [
    Script([1, 1, 0, 0], [3, 6, 8, 2], [1.2, 0.8, -1, 0], 1.0),
    Script([1, 0, 0, 0], [4, 5, 7, 6], [1, 0, -0.5, 0], 16 / 27),
    Script(
        [0.5, 0, 0.25, 1], [5, 3, 4, 2], [0.5, 0, 0.25, 1], (8 / 7) ** (7 / 4) * (8 / 9) ** (9 / 4)
    ),
    Script([1, 1, 1, 1], [5, 5, 5, 5], [1, 1, 1, 1], 1 / 16),
]
LENGTHS = [length for script in SCRIPTS for length in script.lengths]


def expected_advantages(kind: str = "grpo") -> list[float]:
    values = []
    for script in SCRIPTS:
        shaped = torch.tensor(script.shaped, dtype=torch.float64)
        deviations, std = shaped - shaped.mean(), shaped.std(correction=0)
        if kind == "no_std":
            std = torch.ones(())
        values += (script.weight * deviations / std if std else 0 * shaped).tolist()
    return values


@dataclass
class ScriptedEngine:
    """Samples random tokens, as many as SCRIPTS says, and reports log-probs that are off by up to
    `noise` nats.
    """

    policy: Policy
    events: list[str]
    noise: float
    seeds: list[int] = field(default_factory=list)
    sampled: list[list[tuple[tuple[int, ...], Completion]]] = field(default_factory=list)
    """By step: each completion with its prompt, in order."""

    def wake(self) -> None:
        self.events.append("wake")

    def sleep(self) -> None:
        self.events.append("sleep")

    def load_weights(self, version: int) -> None:
        self.events.append(f"load_weights {version}")

    def metrics(self) -> dict[str, float]:
        return {"rollout/of_the_engine": 7.0}

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        skip: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, int, Completion]]:
        assert not skip, "the groups of a step are whole"
        self.events.append("stream")
        self.seeds.append(seed)
        assert (settings.num_completions, settings.temperature) == (4, TEMPERATURE)
        generator = torch.Generator().manual_seed(seed)
        model, rollout = float64_copy(self.policy), []
        for prompt, script in zip(prompts, SCRIPTS, strict=True):
            for length in script.lengths:
                tokens = torch.randint(6, 280, (length,), generator=generator)
                logprobs, _ = token_logprobs(model, prompt, tokens)
                noise = self.noise * (2 * torch.rand(length, generator=generator) - 1)
                reported = tuple((logprobs.detach() + noise).tolist())
                rollout.append(
                    (tuple(prompt), Completion(tuple(tokens.tolist()), reported, "stop", ""))
                )
        self.sampled.append(rollout)
        for place in reversed(range(len(rollout))):  # engines end them in any order
            group, sample = divmod(place, 4)
            text = f"{group} {sample}"
            yield group, sample, replace(rollout[place][1], text=text)


class ScriptedVerifiers:
    def submit(self, problem: Problem, completion: Completion) -> Future[Verdict]:
        group, sample = map(int, completion.text.split())
        reward = SCRIPTS[group].rewards[sample]
        future: Future[Verdict] = Future()
        future.set_result(Verdict(reward, reward == 1))
        return future


class WatchedOptimizer(PolicyOptimizer):
    """Notes with which weights and gradients it is asked for an update."""

    def __init__(self, policy: Policy, stage: MGPOStage, events: list[str]) -> None:
        super().__init__(policy, stage.optimizer, num_steps=stage.updates_per_rollout * NUM_STEPS)
        self._model, self._events = policy.model, events
        self.weights: list[Policy] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        self._policy = policy

    def step(self, step: int) -> dict[str, float]:
        self._events.append(f"update {step}")
        self.weights.append(replace(self._policy, model=copy.deepcopy(self._model)))
        self.gradients.append(
            {
                name: p.grad.clone()
                for name, p in self._model.named_parameters()
                if p.grad is not None
            }
        )
        return super().step(step)


@dataclass
class Case:
    trainer: Trainer
    problems: list[Problem]
    events: list[str]
    engine: ScriptedEngine
    optimizer: WatchedOptimizer
    directory: Path

    def run(self) -> None:
        for step in range(NUM_STEPS):
            mgpo_step(self.trainer, self.problems, step)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return list(read_jsonl(self.directory / name))


def make_case(directory: Path, *overrides: str, noise: float = 0.4) -> Case:
    rows = [{"prompt": f"{i} + {i}", "answer": str(2 * i)} for i in range(NUM_PROBLEMS)]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = directory / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path, overrides)
    stage = recipe.stages[0]
    assert isinstance(stage, MGPOStage)
    stage_dir = StageDir(directory)
    context = make_context(recipe, path, RunDir(directory / "run"), "mgpo", stage_dir, Meter())
    context = replace(context, verifiers=cast(Any, ScriptedVerifiers()))
    policy, events = tiny_policy(), []
    reference = replace(policy, model=copy.deepcopy(policy.model))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reference.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    engine = ScriptedEngine(policy, events, noise)
    optimizer = WatchedOptimizer(policy, stage, events)
    reference = reference if stage.kl_coef else None
    trainer = Trainer(stage, context, policy, reference, cast(Any, engine), optimizer)
    return Case(trainer, context.problems("train"), events, engine, optimizer, directory)


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def float64_copy(policy: Policy) -> Any:
    model: Any = copy.deepcopy(policy.model)
    model.set_attn_implementation("eager")
    return model.double()


def token_logprobs(
    model: Any, prompt: Sequence[int], tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies [T] of a completion's tokens, from the full logits."""
    logits = full_logits(model, [*prompt, *tokens.tolist()])[len(prompt) - 1 : -1]
    logprobs = (logits / TEMPERATURE).log_softmax(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, tokens[:, None])[:, 0], entropies


def expected_update(
    case: Case, step: int, update: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The gradient of one update of a step, by name, and what it should report."""
    stage, reference = case.trainer.stage, case.trainer.reference
    first = stage.updates_per_rollout * step
    before = float64_copy(case.optimizer.weights[first])
    ref_model = before if reference is None else float64_copy(reference)
    model = float64_copy(case.optimizer.weights[first + update])
    model.zero_grad()
    columns: dict[str, list[torch.Tensor]] = {}
    for (prompt, completion), advantage in zip(
        case.engine.sampled[step], expected_advantages(stage.advantage), strict=True
    ):
        if not (advantage or stage.entropy_coef or stage.kl_coef):
            continue  # no gradient, though it counts in the average
        tokens = torch.tensor(completion.token_ids)
        with torch.no_grad():
            old, _ = token_logprobs(before, prompt, tokens)
            ref, _ = token_logprobs(ref_model, prompt, tokens)
        logprobs, entropy = token_logprobs(model, prompt, tokens)
        sampler = torch.tensor(completion.sampler_logprobs, dtype=torch.float64)
        ratio = torch.exp(logprobs - old)
        kept_ratio = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
        if stage.ratio == "sequence":
            ratio = torch.exp((logprobs - old).mean()).detach() * torch.exp(
                logprobs - logprobs.detach()
            )
            kept_ratio = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
        surrogate = torch.minimum(ratio * advantage, kept_ratio * advantage)
        if stage.ratio == "cispo":
            surrogate = kept_ratio.detach() * advantage * logprobs
        importance = torch.exp(old - sampler).clamp(max=CAP)
        kl = torch.exp(ref - logprobs) - (ref - logprobs) - 1
        penalty = stage.kl_coef * (logprobs - ref).square() / 2
        objective = importance * surrogate + stage.entropy_coef * entropy - penalty
        weight = {
            "sequence": 1 / (len(LENGTHS) * len(tokens)),
            "token": 1 / sum(LENGTHS),
            "constant": 1 / (len(LENGTHS) * MAX_NEW_TOKENS),
        }[stage.aggregation]
        loss = -(weight * objective).sum()
        loss.backward()
        for name, values in {
            "loss": loss,
            "entropy": entropy,
            "kl": kl,
            "apart": old - sampler,
            "too_high": ((ratio > 1 + CLIP_HIGH) & (advantage > 0)).double(),
            "too_low": ((ratio < 1 - CLIP_LOW) & (advantage < 0)).double(),
            "capped": (torch.exp(old - sampler) > CAP).double(),
        }.items():
            columns.setdefault(name, []).append(values.detach().reshape(-1))
    sums = {name: torch.cat(values) for name, values in columns.items()}
    gradient = gradients_of(model)
    metrics = {
        "policy/loss": sums["loss"].sum().item(),
        "policy/entropy": sums["entropy"].mean().item(),
        "policy/clip_fraction": (sums["too_high"] + sums["too_low"]).mean().item(),
        "mismatch/k3": (torch.exp(sums["apart"]) - 1 - sums["apart"]).mean().item(),
        "mismatch/max_abs": sums["apart"].abs().max().item(),
        "optimizer/grad_norm": math.sqrt(sum(g.square().sum().item() for g in gradient.values())),
    }
    if reference is not None:
        metrics["policy/kl"] = sums["kl"].mean().item()
    if update == 1:
        assert sums["too_high"].any() and sums["too_low"].any(), "the case must clip on both sides"
    assert 0 < sums["capped"].mean() < 1, "the case must cap some tokens"
    return gradient, metrics


def assert_equal_gradients(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].double(), gradient, rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize(
    "settings",
    [
        ["aggregation=sequence"],
        ["aggregation=token"],
        ["aggregation=constant"],
        ["ratio=sequence"],
        ["ratio=cispo"],
        ["advantage=no_std"],
        ["tokens_per_micro_batch=10000"],
        ["updates_per_rollout=1", "entropy_coef=0", "kl_coef=0"],
    ],
    ids=[
        "sequence",
        "token",
        "constant",
        "gspo",
        "cispo",
        "no-std",
        "one-micro-batch",
        "on-policy",
    ],
)
def test_gradients_and_metrics_are_those_of_the_method(tmp_path, settings):
    case = make_case(tmp_path, *(f"stages.mgpo.{setting}" for setting in settings))
    case.run()
    num_updates = case.trainer.stage.updates_per_rollout
    metrics = [row["metrics"] for row in case.rows("steps.jsonl")]
    for step in range(NUM_STEPS):
        for update in range(num_updates):
            gradient, expected = expected_update(case, step, update)
            assert_equal_gradients(case.optimizer.gradients[num_updates * step + update], gradient)
        for name, value in expected.items():  # the step reports its last update
            assert metrics[step][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_advantages_and_what_the_rollout_says_are_recorded(tmp_path):
    case = make_case(tmp_path)
    case.run()
    samples, steps = case.rows("samples.jsonl"), case.rows("steps.jsonl")
    assert [row["advantage"] for row in samples] == pytest.approx(2 * expected_advantages())
    assert [row["reward"] for row in samples] == 2 * [r for s in SCRIPTS for r in s.rewards]
    for row in steps:
        metrics = row["metrics"]
        assert metrics["reward/mean"] == pytest.approx(8.75 / 16)
        assert metrics["maxent/weight_mean"] == pytest.approx(
            sum(script.weight for script in SCRIPTS[:3]) / 3
        )
        assert metrics["shaping/mean_shift"] == pytest.approx((-1 - 0.5) / 16)
        assert metrics["completion/mean_tokens"] == pytest.approx(sum(LENGTHS) / 16)
        assert metrics["rollout/of_the_engine"] == 7
    # Warm-up over two of four updates, then half a cosine down to a tenth.
    rates = [row["metrics"]["optimizer/lr"] for row in steps]
    assert rates == pytest.approx([PEAK_LR, 0.1 * PEAK_LR])


def test_the_engine_sleeps_while_the_policy_is_trained_and_then_gets_its_weights(tmp_path):
    case = make_case(tmp_path)
    case.run()
    assert case.events == [
        *("wake", "stream", "sleep", "update 0", "update 1", "load_weights 1"),
        *("wake", "stream", "sleep", "update 2", "update 3", "load_weights 2"),
    ]


def test_steps_differ_in_problems_and_seed(tmp_path):
    case = make_case(tmp_path)
    case.run()
    assert len(set(case.engine.seeds)) == NUM_STEPS
    asked = [row["problem_id"] for row in case.rows("samples.jsonl")[::4]]
    assert sorted(asked) == sorted(problem.id for problem in case.problems), "each of them once"
    prompts = [prompt for rollout in case.engine.sampled for prompt, _ in rollout[::4]]
    assert len(set(prompts)) == NUM_PROBLEMS


def test_a_sampler_that_is_another_policy_stops_the_step_before_its_update(tmp_path):
    case = make_case(tmp_path, noise=4.0)
    with pytest.raises(EngineError, match="no update was made"):
        mgpo_step(case.trainer, case.problems, 0)
    assert case.events == ["wake", "stream", "sleep"]
    assert case.rows("steps.jsonl") == []
