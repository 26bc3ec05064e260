"""Does the backward pass over active vocabulary columns (grad_tol) pay on a real model?

    OMP_NUM_THREADS=1 python benchmarks/active_columns.py --out active_columns.json

SmolLM2-135M samples answers to reasoning-gym problems, at each temperature anew; its head then runs
forward and backward on the hidden states, in float32, with an advantage per completion, exactly and
at each tolerance in turn, round by round, after a warm-up. Times are CPU seconds of the process, so
that others on the machine disturb them less. Errors are against float64. The share of columns is
that of the products dz W and dz^T h; 1 is all.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reasoning_gym
import torch

from vibelite.data.batching import TrainingSequence, pack
from vibelite.kernels import active_columns, chunked, linear_logprobs, linear_token_loss
from vibelite.kernels.active_columns import Activity, Call
from vibelite.kernels.problem import Problem, Wanted
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.models.smollm2 import smollm2_directory
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine

TASKS = ("gsm_symbolic", "chain_sum", "basic_arithmetic", "simple_equations", "leg_counting", "gcd")
TOLERANCES = (None, 1e-2, 1e-3, 1e-4)
MAX_NEW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Inputs:
    """hidden [N, H] and weight [V, H] float32, targets [N], advantages [N]."""

    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    advantages: torch.Tensor
    temperature: float


def sample_inputs(policy: Policy, num_tokens: int, temperature: float) -> Inputs:
    """The head's inputs for `num_tokens` tokens the policy sampled itself."""
    num_prompts = num_tokens // 64 + 1
    questions = [
        entry["question"]
        for task in TASKS
        for entry in reasoning_gym.create_dataset(task, size=num_prompts // len(TASKS) + 1, seed=1)
    ][:num_prompts]
    template: Any = policy.tokenizer.apply_chat_template  # returns ids: one of many types
    prompts: list[list[int]] = [
        template([{"role": "user", "content": question}], add_generation_prompt=True,
                 return_dict=False)
        for question in questions
    ]  # fmt: skip
    stop_id = policy.tokenizer.eos_token_id
    assert isinstance(stop_id, int)
    engine = TransformersEngine(policy, stop_ids=[stop_id], max_sequences=32)
    settings = SamplingSettings(1, MAX_NEW_TOKENS, temperature=temperature)
    generator = torch.Generator().manual_seed(0)
    hidden, targets, advantages = [], [], []
    for prompt, (completion,) in zip(
        prompts, generate(engine, prompts, settings, seed=0), strict=True
    ):
        tokens = [*prompt, *completion.token_ids]
        batch = pack([TrainingSequence(tokens, len(prompt))], policy.device)
        with torch.no_grad():
            states, positions = policy.predictions(batch)
        hidden.append(states)
        targets.append(batch.input_ids[positions])
        advantages.append(torch.randn(1, generator=generator).expand(len(states)))
    return Inputs(
        torch.cat(hidden)[:num_tokens].clone(),
        policy.head.detach().clone(),
        torch.cat(targets)[:num_tokens],
        torch.cat(advantages)[:num_tokens],
        temperature,
    )


def two_pass(inputs: Inputs, grad_tol: float | None) -> Sequence[torch.Tensor]:
    """Gradients of hidden states and weight by the recomputing operator."""
    leaves = inputs.hidden.requires_grad_(), inputs.weight.requires_grad_()
    logprobs, _ = linear_logprobs(
        *leaves, inputs.targets, temperature=inputs.temperature, grad_tol=grad_tol
    )
    return torch.autograd.grad((logprobs * inputs.advantages).sum(), leaves)


def one_pass(inputs: Inputs, grad_tol: float | None) -> Sequence[torch.Tensor]:
    """The same gradients with the loss inside."""
    leaves = inputs.hidden.requires_grad_(), inputs.weight.requires_grad_()
    output = linear_token_loss(
        *leaves, inputs.targets, lambda logprobs, _, rows: logprobs * inputs.advantages[rows],
        temperature=inputs.temperature, grad_tol=grad_tol,
    )  # fmt: skip
    return torch.autograd.grad(output.loss, leaves)


OPERATORS: dict[str, Callable[[Inputs, float | None], Sequence[torch.Tensor]]] = {
    "linear_logprobs": two_pass,
    "linear_token_loss": one_pass,
}


def activity_of(inputs: Inputs, grad_tol: float) -> Activity:
    problem = Problem(
        inputs.hidden.detach(), inputs.weight.detach(), inputs.targets, inputs.temperature
    )
    upstream = inputs.advantages, torch.zeros_like(inputs.advantages)
    call = Call(chunked, problem, chunked.forward(problem), upstream)
    return active_columns.backward(call, Wanted(), grad_tol)[1]


def measure(inputs: Inputs, num_rounds: int) -> list[dict[str, object]]:
    """One row for each operator and tolerance."""
    double = Inputs(
        inputs.hidden.detach().double(), inputs.weight.detach().double(), inputs.targets,
        inputs.advantages.double(), inputs.temperature,
    )  # fmt: skip
    expected = two_pass(double, None)
    cases = [(name, grad_tol) for name in OPERATORS for grad_tol in TOLERANCES]
    seconds: dict[tuple[str, float | None], list[float]] = {case: [] for case in cases}
    errors: dict[tuple[str, float | None], list[float]] = {}
    for round_index in range(num_rounds + 1):
        for name, grad_tol in cases:
            start = time.process_time()
            gradients = OPERATORS[name](inputs, grad_tol)
            elapsed = time.process_time() - start
            if round_index == 0:
                errors[name, grad_tol] = [
                    float((found.double() - exact).norm() / exact.norm())
                    for found, exact in zip(gradients, expected, strict=True)
                ]
                assert max(errors[name, grad_tol]) <= (grad_tol or 0.0) + 2e-5
            else:
                seconds[name, grad_tol].append(elapsed)
    rows: list[dict[str, object]] = []
    for name, grad_tol in cases:
        times = seconds[name, grad_tol]
        ratios = [mine / exact for mine, exact in zip(times, seconds[name, None], strict=True)]
        activity = None if grad_tol is None else activity_of(inputs, grad_tol)
        rows.append(
            {
                "operator": name,
                "grad_tol": grad_tol,
                "seconds": statistics.median(times),
                "of_exact": statistics.median(ratios),
                "of_exact_range": [min(ratios), max(ratios)],
                "hidden_error": errors[name, grad_tol][0],
                "weight_error": errors[name, grad_tol][1],
                "hidden_share": activity and activity.hidden / activity.total,
                "weight_share": activity and activity.weight / activity.total,
                "weight_fell_back": activity and activity.weight_fell_back,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.6])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    policy = load_policy(smollm2_directory(), dtype="float32", device=torch.device("cpu"))
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
    }
    report: dict[str, object] = {"environment": environment}
    for temperature in arguments.temperatures:
        inputs = sample_inputs(policy, arguments.tokens, temperature)
        _, entropy = linear_logprobs(
            inputs.hidden, inputs.weight, inputs.targets, temperature=temperature
        )
        mean_entropy = float(entropy.mean())
        print(f"\nT {temperature}: {len(inputs.hidden)} tokens, entropy {mean_entropy:.2f} nats")
        rows = measure(inputs, arguments.rounds)
        for row in rows:
            print({key: f"{v:.3g}" if isinstance(v, float) else v for key, v in row.items()})
        report[f"temperature {temperature}"] = {
            "tokens": len(inputs.hidden),
            "entropy": mean_entropy,
            "rows": rows,
        }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
