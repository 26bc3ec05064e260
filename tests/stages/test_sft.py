"""Steps of supervised fine-tuning against the mean over the trained tokens by transformers' eager
attention in float64, whatever the micro-batches, and what a step trains on.
"""

import copy
from typing import Any

import pytest
import torch

from tests.policies import full_logits, random_sequences, tiny_policy
from vibelite.models.policy import Policy
from vibelite.pipeline import make_context
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import Optimizer, SFTStage
from vibelite.run_dir import RunDir, StageDir, read_jsonl
from vibelite.stages.sft import Trainer, sft_step
from vibelite.telemetry.meter import Meter
from vibelite.training.optim import PolicyOptimizer

NUM_STEPS, PEAK_LR = 4, 1e-3
RECIPE = f"""
name: steps
model: {{source: tiny}}
data: {{traces: {{traces: {{source: file, path: traces.jsonl}}}}}}
stages:
  - kind: sft
    num_steps: {NUM_STEPS}
    sequences_per_step: 4
    checkpoint_every: {NUM_STEPS}
    optimizer: {{lr: {PEAK_LR}, schedule: cosine, warmup_fraction: 0.5, final_lr_fraction: 0.1}}
"""


class WatchedOptimizer(PolicyOptimizer):
    """Notes the model and its gradients before each update."""

    def __init__(self, policy: Policy, config: Optimizer) -> None:
        super().__init__(policy, config, num_steps=NUM_STEPS)
        self._model = policy.model
        self.models: list[Any] = []

    def step(self, step: int) -> dict[str, float]:
        before = copy.deepcopy(self._model)
        for kept, parameter in zip(before.parameters(), self._model.parameters(), strict=True):
            kept.grad = None if parameter.grad is None else parameter.grad.clone()
        self.models.append(before)
        return super().step(step)


def expected_step(model: Any, sequences: list[Any]) -> tuple[float, list[torch.Tensor]]:
    """Mean negative log-prob per trained token, and its gradient: full logits in float64."""
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    exact.zero_grad()
    losses = []
    for sequence in sequences:
        logprobs = full_logits(exact, sequence.token_ids).log_softmax(-1)
        for position in range(sequence.num_prompt_tokens, len(sequence.token_ids)):
            losses.append(-logprobs[position - 1, sequence.token_ids[position]])
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), [p.grad for p in exact.parameters() if p.grad is not None]


@pytest.mark.parametrize("micro_batch", [40, 10_000])
def test_steps_are_those_of_the_method_and_use_every_trace_once(tmp_path, one_thread, micro_batch):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    (tmp_path / "traces.jsonl").touch()  # never read: sequences are given
    recipe = load_recipe(path, [f"stages.sft.tokens_per_micro_batch={micro_batch}"])
    stage = recipe.stages[0]
    assert isinstance(stage, SFTStage)
    context = make_context(recipe, path, RunDir(tmp_path), "sft", StageDir(tmp_path), Meter())
    sequences = random_sequences(16)
    policy = tiny_policy()
    optimizer = WatchedOptimizer(policy, stage.optimizer)
    used: list[list[Any]] = []

    class Sequences(list):
        def __getitem__(self, index: Any) -> Any:
            used[-1].append(list.__getitem__(self, index))
            return used[-1][-1]

    for step in range(NUM_STEPS):
        used.append([])
        sft_step(Trainer(stage, context, policy, optimizer), Sequences(sequences), step)
    assert sorted(map(id, sum(used, []))) == sorted(map(id, sequences)), "each of them once"
    rows = [row["metrics"] for row in read_jsonl(tmp_path / "steps.jsonl")]
    for row, model, step_sequences in zip(rows, optimizer.models, used, strict=True):
        loss, gradients = expected_step(model, step_sequences)
        assert row["sft/loss"] == pytest.approx(loss, rel=1e-5)
        assert row["sft/tokens"] == sum(len(sequence.token_ids) for sequence in step_sequences)
        found = [p.grad for p in model.parameters() if p.grad is not None]
        largest = max(gradient.abs().max().item() for gradient in gradients)
        for mine, exact in zip(found, gradients, strict=True):
            torch.testing.assert_close(mine.double(), exact, rtol=0, atol=2e-5 * largest)
    # Warm-up over two of four updates, then half a cosine down to a tenth.
    rates = [row["optimizer/lr"] for row in rows]
    assert rates == pytest.approx([0.5 * PEAK_LR, PEAK_LR, PEAK_LR, 0.1 * PEAK_LR])
