"""What `vibelite plan` predicts against what is measured: peak memory and seconds of a step.

    OMP_NUM_THREADS=1 python -m benchmarks.planner_check [NAME ...] [--out FILE.json]
    python -m benchmarks.planner_check --gpu h100-80gb      on a machine with that GPU

Large models, adapters and vLLM on a GPU: gpu_planner.py.

Every configuration is a process of its own with one thread (`planner_steps.py`). On a CPU it
measures its rates (`planner_rates.py`) before every step, and the prediction is made from them by
the planner's formulas, so that other users of the machine slow down both alike. On a GPU the rates
are those of the planner's table.

Seconds: of the process on the processor, generating, training and updating together; the error is
the median over all steps but the first, which also makes the optimizer's state. Peak: resident
memory, the highest of all parts of all steps. `whole` is what the process holds with everything in
it against what `vibelite plan` says; `above` leaves out on both sides what it held beside the
weights when it had loaded the model (libraries, tokenizer): as measured, and as assumed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from vibelite.planning.devices import Device, device_named
from vibelite.planning.model_shape import shape_of
from vibelite.planning.plan import Machine, Plan, make_plan
from vibelite.planning.workload import Assumptions
from vibelite.recipe.model_section import Model, SmolLM2Model, TinyModel
from vibelite.recipe.schema import Recipe
from vibelite.tables import format_table
from vibelite.telemetry.manifest import describe_hardware
from vibelite.units import GIB

RESULT = Path(__file__).parent / "results" / "planner_check.json"
QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
# SmolLM2 and tiny models; the first step is not timed.
NUM_STEPS, NUM_TINY_STEPS = 3, 5
PROMPT_TOKENS = 32
MIB = 1 << 20
SMOLLM2 = SmolLM2Model(source="smollm2")
TINY = TinyModel(
    source="tiny", hidden_size=256, num_layers=2, num_heads=4, num_kv_heads=1, mlp_size=512
)
# Wider and deeper than the quickstart's, with as few logits.
TINY_WIDE = TinyModel(
    source="tiny", hidden_size=384, num_layers=6, num_heads=6, num_kv_heads=2, mlp_size=1024
)


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration: a model, one stage of a recipe, and how it is held."""

    name: str
    model: Model
    stage: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    is_medium: bool = False
    """matmul_precision: medium."""
    sections: Mapping[str, Any] = field(default_factory=dict)
    """Other sections of the recipe: adapter, rollout."""

    @property
    def num_steps(self) -> int:
        return NUM_TINY_STEPS if isinstance(self.model, TinyModel) else NUM_STEPS

    def recipe(self) -> Recipe:
        values = yaml.safe_load(QUICKSTART.read_text()) | {
            "model": self.model.model_dump(),
            "stages": [dict(self.stage) | {"num_steps": self.num_steps}],
            "training": dict(self.training),
            "num_threads": 1,
            "matmul_precision": "medium" if self.is_medium else "highest",
            **self.sections,
        }
        return Recipe.model_validate(values)


def sft(num: int, length: int, budget: int, *, kind: str = "adamw") -> dict[str, Any]:
    """`num` sequences of `length` tokens a step."""
    return {
        "kind": "sft", "num_steps": NUM_STEPS, "sequences_per_step": num, "max_tokens": length,
        "tokens_per_micro_batch": budget, "checkpoint_every": NUM_STEPS,
        "optimizer": {"kind": kind, "lr": 1e-5},
    }  # fmt: skip


def mgpo(
    num: int, group_size: int, new_tokens: int, budget: int, *, kind: str = "adamw",
) -> dict[str, Any]:  # fmt: skip
    """`num` groups of completions of `new_tokens` tokens a step."""
    return {
        "kind": "mgpo", "num_steps": NUM_STEPS, "problems_per_step": num, "start_from": "base",
        "group_size": group_size, "tokens_per_micro_batch": budget,
        "sampling": {"max_new_tokens": new_tokens, "max_sequences": 512},
        "optimizer": {"kind": kind, "lr": 1e-6},
    }  # fmt: skip


CASES = (
    Case("tiny SFT", TINY, sft(48, 96, 4096, kind="muon")),
    Case("tiny SFT, AdamW, 8K", TINY, sft(64, 128, 8192)),
    Case("tiny SFT, checkpoint, 8K", TINY, sft(64, 128, 8192), {"activations": "checkpoint"}),
    Case("tiny MGPO, G 8", TINY, mgpo(16, 8, 64, 8192, kind="muon")),
    Case("tiny MGPO, G 16", TINY, mgpo(16, 16, 64, 8192, kind="muon")),
    Case("wide SFT", TINY_WIDE, sft(16, 256, 4096)),
    Case("wide SFT, tiles", TINY_WIDE, sft(16, 256, 4096), {"mlp_tile_tokens": 512}),
    Case("wide MGPO, G 8", TINY_WIDE, mgpo(8, 8, 64, 4096)),
    Case("SmolLM2 SFT, 512", SMOLLM2, sft(4, 128, 512)),
    Case("SmolLM2 SFT, 2 x 256", SMOLLM2, sft(4, 128, 256)),
    Case("SmolLM2 SFT, medium, 1024", SMOLLM2, sft(4, 256, 1024), is_medium=True),
    Case(
        "SmolLM2 SFT, medium, checkpoint, 1024",
        SMOLLM2, sft(4, 256, 1024), {"activations": "checkpoint"}, is_medium=True,
    ),
    Case(
        "SmolLM2 SFT, medium, checkpoint, tiles, 1024",
        SMOLLM2, sft(4, 256, 1024), {"activations": "checkpoint", "mlp_tile_tokens": 256},
        is_medium=True,
    ),
    Case("SmolLM2 SFT, bfloat16, 1024", SMOLLM2, sft(4, 256, 1024), {"dtype": "bfloat16"}),
    Case("SmolLM2 SFT, adamw_cpu, 512", SMOLLM2, sft(4, 128, 512, kind="adamw_cpu")),
    Case("SmolLM2 MGPO, medium, G 4", SMOLLM2, mgpo(4, 4, 16, 1024), is_medium=True),
    Case("SmolLM2 MGPO, medium, G 8", SMOLLM2, mgpo(2, 8, 32, 512), is_medium=True),
)  # fmt: skip


def write_models(directory: Path) -> None:
    """The models of all cases, tiny ones with a tokenizer of their full vocabulary."""
    from vibelite.models.load import write_base_model

    texts = [f"{number} * {number + 7} = {number * (number + 7)}" for number in range(500)]
    texts += [QUICKSTART.read_text(), Path(__file__).read_text()]
    for name, model in models().items():
        write_base_model(
            model, directory / name, recipe_dir=directory, texts=texts, seed=0, dtype="float32"
        )


def models() -> dict[str, Model]:
    return {"smollm2": SMOLLM2, "tiny": TINY, "wide": TINY_WIDE}


def measure(case: Case, model: Path) -> dict[str, Any]:
    """What a fresh process of `planner_steps` reports."""
    work = {
        "recipe": case.recipe().model_dump(mode="json"),
        "model": str(model),
        "prompt_tokens": PROMPT_TOKENS,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(work))
        file.flush()
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.planner_steps", file.name],
            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True,
        )  # fmt: skip
    return json.loads(found.stdout.splitlines()[-1])


def planned(case: Case, rates: Mapping[str, float] | None, gpu: str | None) -> Plan:
    """The plan for a processor of these rates, or for a listed GPU."""
    if gpu is not None:
        device = device_named(gpu)
    else:
        assert rates is not None, "measured on a GPU: name it with --gpu"
        device = Device("cpu", 1 << 40, is_cpu=True, **rates)
    assume = Assumptions(prompt_tokens=PROMPT_TOKENS, length_fraction=1.0, trace_fraction=1.0)
    recipe = case.recipe()
    return make_plan(recipe, Path(), shape_of(recipe.model, Path()), Machine(device), assume)


def compare(case: Case, found: Mapping[str, Any], gpu: str | None = None) -> dict[str, Any]:
    """One row: measured, predicted, errors, and the parts of both."""
    before = found["before_bytes"]
    steps = found["steps"][1:]
    plans = [planned(case, step["rates"], gpu) for step in steps]
    # A GPU's context is in neither of the two: torch does not count it before the first step.
    assumed = 0.0 if gpu else plans[0].assumptions.program_gib * GIB
    (stage,) = plans[0].stages
    seconds = [sum(step["seconds"].values()) for step in steps]
    expected = [plan.stages[0].seconds.steps / case.num_steps for plan in plans]
    ratios = [mine / theirs for mine, theirs in zip(expected, seconds, strict=True)]
    # The steps that are measured save nothing.
    totals = [phase.total - phase.parts.get("saved state", 0.0) for phase in plans[0].phases]
    peak, predicted = found["peak_bytes"], max(totals)
    return {
        "name": case.name,
        "recipe": case.recipe().model_dump(mode="json", include={"model", "training", "stages"}),
        "before_bytes": before,
        "peak_bytes": peak,
        "predicted_bytes": predicted,
        "assumed_before_bytes": assumed,
        "error_above": (predicted - assumed) / (peak - before) - 1,
        "error_whole": predicted / peak - 1,
        "seconds": median(seconds),
        "predicted_seconds": median(expected),
        "error_seconds": median(ratios) - 1,
        "predicted_parts": {
            phase.phase: {"moment": phase.moment, **phase.parts} for phase in stage.phases
        },
        "predicted_seconds_parts": {
            name: median(getattr(plan.stages[0].seconds, name) / case.num_steps for plan in plans)
            for name in ("generate", "train", "optimizer")
        },
        "steps": found["steps"],
    }


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, and under it the medians of the absolute errors."""
    heads = [
        "configuration",
        "peak MiB",
        "predicted",
        "above",
        "whole",
        "s a step",
        "predicted",
        "",
    ]
    body = [
        [
            row["name"],
            f"{(row['peak_bytes'] - row['before_bytes']) / MIB:.0f}",
            f"{(row['predicted_bytes'] - row['assumed_before_bytes']) / MIB:.0f}",
            f"{row['error_above']:+.1%}",
            f"{row['error_whole']:+.1%}",
            f"{row['seconds']:.2f}",
            f"{row['predicted_seconds']:.2f}",
            f"{row['error_seconds']:+.0%}",
        ]
        for row in rows
    ]
    keys = ("error_above", "error_whole", "error_seconds")
    errors = {key: [abs(row[key]) for row in rows] for key in keys}
    summary = "; ".join(
        f"{key} median {median(values):.1%}, largest {max(values):.1%}"
        for key, values in errors.items()
    )
    return f"{format_table(heads, body)}\n\n{summary}"


def kept_rows(path: Path | None, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """What an earlier call has left in `path`, without what is measured again."""
    if path is None or not path.exists():
        return []
    rows = json.loads(path.read_text())["rows"]
    return [row for row in rows if row["name"] not in {case.name for case in cases}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("names", nargs="*", help="Only cases whose name contains one of these.")
    parser.add_argument("--out", type=Path, help="Written after each; keeps what it had of others.")
    parser.add_argument("--gpu", help="The listed GPU of this machine; default: its processor.")
    arguments = parser.parse_args()
    cases = [
        case for case in CASES
        if not arguments.names or any(name in case.name for name in arguments.names)
    ]  # fmt: skip
    rows = kept_rows(arguments.out, cases)
    with tempfile.TemporaryDirectory() as directory:
        write_models(Path(directory))
        for case in cases:
            name = next(name for name, model in models().items() if model == case.model)
            rows.append(compare(case, measure(case, Path(directory) / name), arguments.gpu))
            print(report(rows[-1:]).splitlines()[-3], file=sys.stderr)
            if arguments.out is not None:
                result = {"hardware": describe_hardware(), "rows": rows}
                arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(report(rows))


if __name__ == "__main__":
    main()
