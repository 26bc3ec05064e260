"""TRL's side of `step_vs_trl.py`: the seconds and the memory of its SFT and GRPO steps.

Runs under an interpreter that has TRL, reads the workload written by `step_vs_trl.py`, and takes
turns with the other side. It imports nothing of VibeLite.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import (  # pyright: ignore[reportMissingImports]
    GRPOConfig,
    GRPOTrainer,
    SFTConfig,
    SFTTrainer,
)

from benchmarks.step_turns import Turns, report_end

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_bytes(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


class StepEnds(TrainerCallback):
    """Turns of optimizer steps, from one step's end to the next one's."""

    def __init__(self):
        self.turns = Turns()

    def on_train_begin(self, args, state, control, **kwargs):
        self.turns.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.turns.end_step()


def reward(completions, **kwargs):
    """Half of each group is right, so that every group has a gradient."""
    return [float(index % 2) for index in range(len(completions))]


def make_trainer(work, model, tokenizer):
    common = {
        "output_dir": work["scratch"],
        "use_cpu": True,
        "bf16": work["bf16"],
        "gradient_checkpointing": work["activations"] == "checkpoint",
        "per_device_train_batch_size": work["sequences_per_micro_batch"],
        "gradient_accumulation_steps": work["num_sequences"] // work["sequences_per_micro_batch"],
        "max_steps": work["num_steps"],
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    if work["method"] == "sft":
        rows = [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": completion}],
            }
            for prompt, completion in work["traces"]
        ]
        settings = SFTConfig(**common, max_length=work["max_tokens"], loss_type=work["trl_loss"])
        return SFTTrainer(
            model, args=settings, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer, callbacks=[StepEnds()],
        )  # fmt: skip
    rows = [{"prompt": [{"role": "user", "content": prompt}]} for prompt, _ in work["traces"]]
    settings = GRPOConfig(
        **common, num_generations=work["group_size"], max_completion_length=work["max_new_tokens"],
        generation_kwargs={"min_new_tokens": work["max_new_tokens"]}, beta=0.0,
        shuffle_dataset=False,
    )  # fmt: skip
    return GRPOTrainer(
        model, reward, args=settings, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[StepEnds()],
    )  # fmt: skip


def main(path: str) -> None:
    work = json.loads(Path(path).read_text())
    torch.set_num_threads(work["num_threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    for parameter in model.parameters():
        parameter.detach().sum()  # the weights are in memory, not only mapped from the file
    bare = memory_bytes("VmRSS")
    CLEAR_REFS.write_text("5")
    make_trainer(work, model, tokenizer).train()
    report_end({"peak_bytes": memory_bytes("VmHWM") - bare, "bare_bytes": bare})


if __name__ == "__main__":
    main(sys.argv[1])
