"""TRL's side of `gpu_step_vs_trl.py`: seconds, tokens and memory of its GRPO steps on a GPU.

Runs in a process of its own, reads the workload that `gpu_step_vs_trl.py` wrote, and writes its
results after every step. It imports nothing of VibeLite. Tiny workloads run on a CPU.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

from benchmarks.gpu_peak import PeakWatch


def main(path: str) -> None:
    work = json.loads(Path(path).read_text())
    watch = PeakWatch()
    begun = time.perf_counter()
    trainer = make_trainer(work)
    steps = Steps(work, watch, time.perf_counter() - begun, trainer)
    time_calls(trainer, steps)
    trainer.add_callback(steps)
    trainer.train()
    watch.close()


def make_trainer(work: dict[str, Any]) -> Any:
    """Every group in one generation batch, one optimizer step for it, no completion ends early."""
    count = len(work["prompts"]) * work["group_size"]
    each = min(work["settings"].pop("per_device_train_batch_size", 8), count)
    lengths = {"ignore_eos": True} if work["engine"] == "vllm" else {
        "min_new_tokens": work["max_new_tokens"]
    }  # fmt: skip
    settings = GRPOConfig(
        output_dir=work["scratch"],
        use_cpu=not torch.cuda.is_available(),
        per_device_train_batch_size=each,
        gradient_accumulation_steps=count // each,
        max_steps=work["num_steps"],
        num_generations=work["group_size"],
        max_completion_length=work["max_new_tokens"],
        generation_kwargs=lengths,
        use_vllm=work["engine"] == "vllm",
        vllm_max_model_length=work["max_model_len"],
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **work["settings"],
    )
    rows = [{"prompt": " ".join(f"t{token}" for token in prompt)} for prompt in work["prompts"]]
    return GRPOTrainer(
        work["model"], reward, args=settings, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
    )  # fmt: skip


def reward(completions: list[Any], **_: object) -> list[float]:
    """Half of each group is right, so that every group has a gradient."""
    return [float(index % 2) for index in range(len(completions))]


def time_calls(trainer: Any, steps: Steps) -> None:
    """Adds up the seconds of sampling and of bringing the weights over."""
    engine = getattr(trainer, "vllm_generation", None)
    names = ("generate", "sync_weights") if engine is not None else ("_generate",)
    for name in names:
        owner = engine if engine is not None else trainer
        setattr(owner, name, steps.timed(name.lstrip("_"), getattr(owner, name)))


class Steps(TrainerCallback):
    """Writes one row a step, from one step's end to the next one's."""

    def __init__(
        self, work: dict[str, Any], watch: PeakWatch, start_seconds: float, trainer: Any
    ) -> None:
        self.work, self.watch = work, watch
        parameters = list(trainer.model.parameters())
        self.result = {
            "start_seconds": start_seconds,
            "dtype": str(parameters[0].dtype),
            "start": watch.take(),
            "steps": [],
        }
        self.spans: dict[str, float] = {}
        self.tokens = 0

    def timed(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            begun = now()
            value = function(*arguments, **named)
            self.spans[name] = self.spans.get(name, 0.0) + now() - begun
            if name == "generate":
                self.tokens += sum(len(ids) for ids in value[1])
            return value

        return call

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.since = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        time_now = now()
        row = {"seconds": time_now - self.since, "tokens": self.tokens, **self.spans}
        self.result["steps"].append(row | self.watch.take())
        Path(self.work["out"]).write_text(json.dumps(self.result))
        self.spans, self.tokens, self.since = {}, 0, time_now


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(sys.argv[1])
