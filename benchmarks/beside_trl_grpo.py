"""TRL's side of `beside_trl.py`: its GRPO on a recipe's problems, with the settings that its
documentation offers for speed and memory, and our verdicts as rewards.

Needs TRL in this Python: python -m pip install 'trl==1.16.0'
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoTokenizer, TrainerCallback

from vibelite.data.chat import end_token_id
from vibelite.data.sources import load_problems
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage
from vibelite.rewards.pool import VerifierPool
from vibelite.types import Completion, Problem

# Sequences of one forward and backward pass.
SEQUENCES_AT_ONCE = 64


class Rewards:
    """Our verdicts, as a function that TRL calls; a completion that was cut off is wrong, as ours
    are.
    """

    __name__ = "verdict"

    def __init__(self, problems: Sequence[Problem], end_id: int, pool: VerifierPool) -> None:
        self._problems, self._end_id, self._pool = problems, end_id, pool

    def __call__(
        self, completions: Sequence[Any], completion_ids: Sequence[Any], index: Any, **_: Any
    ) -> list[float]:
        futures = []
        for turns, ids, place in zip(completions, completion_ids, index, strict=True):
            reason = "stop" if self._end_id in ids else "length"
            completion = Completion(tuple(ids), (), reason, turns[-1]["content"])
            futures.append(self._pool.submit(self._problems[place], completion))
        return [future.result().reward for future in futures]


class Keeper(TrainerCallback):
    """Saves the weights of some steps and notes when; ends the training after the last."""

    def __init__(self, steps: Sequence[int], directory: Path) -> None:
        self.trainer: Any = None
        self.points: list[dict[str, Any]] = []
        self._steps, self._directory = steps, directory

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self._steps:
            target = self._directory / f"step-{state.global_step:06d}"
            self.trainer.save_model(str(target))
            since = psutil.Process().create_time()
            point = {"step": state.global_step, "seconds": time.time() - since}
            self.points.append(point | {"model": str(target)})


def settings(recipe: Recipe, stage: MGPOStage, directory: Path) -> Any:
    """The recipe's batch, lengths and rate; the rest as TRL advises. Weights and moments are in
    float32 with bfloat16 products, its default, and vLLM sleeps while TRL trains.
    """
    from trl import GRPOConfig  # pyright: ignore[reportMissingImports]

    count = stage.problems_per_step * stage.group_size
    at_once = min(SEQUENCES_AT_ONCE, count)
    is_gpu, uses_vllm = torch.cuda.is_available(), recipe.rollout.engine == "vllm"
    return GRPOConfig(
        output_dir=str(directory / "trl"),
        use_cpu=not is_gpu,
        bf16=is_gpu,
        model_init_kwargs={"dtype": "float32"},
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=count // at_once,
        max_steps=stage.num_steps,
        num_generations=stage.group_size,
        max_completion_length=stage.sampling.max_new_tokens,
        temperature=stage.sampling.temperature,
        beta=stage.kl_coef,
        learning_rate=stage.optimizer.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=round(stage.optimizer.warmup_fraction * stage.num_steps),
        weight_decay=stage.optimizer.weight_decay,
        optim="adamw_torch_fused" if is_gpu else "adamw_torch",
        use_vllm=uses_vllm,
        vllm_mode="colocate",
        vllm_enable_sleep_mode=uses_vllm,
        vllm_gpu_memory_utilization=0.3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=recipe.seed,
    )


def train_trl(recipe: Recipe, directory: Path, steps: Sequence[int]) -> list[dict[str, Any]]:
    """Trains, and returns the points: step, seconds since this process began, model."""
    from datasets import Dataset
    from trl import GRPOTrainer  # pyright: ignore[reportMissingImports]

    (stage,) = (stage for stage in recipe.stages if isinstance(stage, MGPOStage))
    path = recipe.model.model_dump()["path"]
    tokenizer = AutoTokenizer.from_pretrained(path)
    source = recipe.data.problems["train"]
    problems = load_problems(source, recipe_dir=Path(), seed=recipe.seed)
    system = [{"role": "system", "content": recipe.data.system_prompt}]
    start = system if recipe.data.system_prompt else []
    rows = [
        {"prompt": [*start, *map(dict, problem.messages)], "index": place}
        for place, problem in enumerate(problems)
    ]
    keeper = Keeper(steps, directory)
    with VerifierPool(num_workers=recipe.verification.num_workers) as pool:
        trainer = GRPOTrainer(
            path,
            Rewards(problems, end_token_id(tokenizer), pool),
            args=settings(recipe, stage, directory),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[keeper],
        )
        keeper.trainer = trainer
        trainer.train()
    return keeper.points
