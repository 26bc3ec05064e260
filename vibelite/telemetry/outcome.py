"""What a run came to, in its manifest, and how far another run of the same recipe is from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from vibelite.run_dir import RunDir, StageDir, read_json, read_jsonl, write_json_atomic

# Of a stage's metrics the mean over so many last steps is kept.
LAST_STEPS = 10
# What they are compared by where bits may differ: what a stage is for, not every diagnostic.
COMPARED_METRICS = ("sft/loss", "reward/mean", "policy/entropy", "completion/mean_tokens")
# Two means of a noisy series are apart if they differ by more than twice their joint deviation.
NUM_DEVIATIONS = 2.0


@dataclass(frozen=True, slots=True)
class Drift:
    """One line of the comparison. `is_same`: whether it is what a replica should have."""

    what: str
    original: str
    replica: str
    band: str
    is_same: bool


def record_outcome(run: RunDir, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes what the run came to so far into its manifest. `results`: rows of the summary."""
    path = run.path / "manifest.json"
    if path.exists():
        manifest = read_json(path)
        write_json_atomic(path, manifest | {"outcome": outcome_of(run, results)})


def outcome_of(run: RunDir, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hashes and means of the steps of every finished stage, results, and the last model's hash.

    What time and money the run took is left out: it is in the ledger, and differs between any two.
    """
    stages: dict[str, Any] = {}
    weights: dict[str, str] = {}
    for path in sorted((run.path / "stages").glob("[0-9]*-*")):
        stage = StageDir(path)
        if not stage.is_finished:
            continue
        name = path.name.partition("-")[2]
        stages[name] = describe_steps(list(read_jsonl(stage.steps_path)))
        if models := list(stage.models().values()):
            weights = {name: weights_hash(models[-1])}
    rows = [
        {key: row[key] for key in ("stage", "benchmark", "pass_at_1", "pass_at_1_ci", "pass_at_k")}
        for row in results
    ]
    return {"stages": stages, "results": rows, "weights_sha256": weights}


def describe_steps(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Number of steps, the hash of all their metrics and tokens, and means of the last ones."""
    exact = [{k: v for k, v in row["metrics"].items() if not is_speed(k)} for row in steps]
    text = json.dumps(
        [[row["step"], metrics, row["tokens"]] for row, metrics in zip(steps, exact, strict=True)]
    )
    last = [row["metrics"] for row in steps[-LAST_STEPS:]]
    series = {
        name: [row[name] for row in last if name in row]
        for name in COMPARED_METRICS
        if any(name in row for row in last)
    }
    return {
        "num_steps": len(steps),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "metrics": {
            name: {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else 0.0}
            for name, values in series.items()
        },
    }


def is_speed(metric: str) -> bool:
    """Whether a metric tells how fast something was: then no two runs have the same."""
    return metric.endswith("seconds") or metric.endswith("_per_second")


def weights_hash(model: Path) -> str:
    """SHA-256 over a model's safetensors files in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def environment_differences(original: Mapping[str, Any], replica: Mapping[str, Any]) -> list[str]:
    """What of two manifests can change a number, as `what: original -> replica`."""

    def facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
        hardware = manifest["hardware"]
        return {
            "commit": manifest["git"]["commit"],
            "python": manifest["python"],
            "cuda": manifest["cuda"],
            "cpu": hardware["cpu"],
            "threads": manifest["num_threads"],
            "GPUs": ", ".join(gpu["name"] for gpu in hardware["gpus"]) or "none",
            **manifest["versions"],
        }

    first, second = facts(original), facts(replica)
    return [
        f"{name}: {first.get(name, 'none')} -> {second.get(name, 'none')}"
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def expects_same_bits(original: Mapping[str, Any], replica: Mapping[str, Any]) -> bool:
    """Only CPUs repeat a run bit by bit, and only with the same program on the same processor."""
    has_gpus = original["hardware"]["gpus"] or replica["hardware"]["gpus"]
    return not has_gpus and not environment_differences(original, replica)


def compare_outcomes(
    original: Mapping[str, Any], replica: Mapping[str, Any], *, same_bits: bool
) -> list[Drift]:
    """Every stage, result and the weights of `original`, beside those of `replica`.

    With `same_bits` all must be equal. Else results must agree within their joint 95% interval
    (root of the sum of the squared half-widths), and the means of the last steps within
    NUM_DEVIATIONS of theirs; hashes are not compared.
    """
    drifts = [*compare_stages(original["stages"], replica["stages"], same_bits=same_bits)]
    found = {(row["stage"], row["benchmark"]): row for row in replica["results"]}
    for row in original["results"]:
        other = found.get((row["stage"], row["benchmark"]))
        name = f"{row['stage']} on {row['benchmark']}: Pass@1"
        band = 0.0 if other is None or same_bits else math.hypot(half_width(row), half_width(other))
        value = None if other is None else other["pass_at_1"]
        drifts.append(compare_numbers(name, row["pass_at_1"], value, band))
    if same_bits:
        for name, digest in original["weights_sha256"].items():
            other = replica["weights_sha256"].get(name)
            drifts.append(compare_hashes(f"{name}: weights", digest, other))
    return drifts


def compare_stages(
    original: Mapping[str, Any], replica: Mapping[str, Any], *, same_bits: bool
) -> Iterator[Drift]:
    """The steps of every stage: their hash, or the means of their last metrics."""
    for name, stage in original.items():
        other = replica.get(name, {"num_steps": 0, "sha256": None, "metrics": {}})
        if not stage["num_steps"]:
            continue
        if same_bits:
            what = f"{name}: metrics of {stage['num_steps']} steps"
            yield compare_hashes(what, stage["sha256"], other["sha256"])
        for metric, first in stage["metrics"].items():
            second = other["metrics"].get(metric)
            band, value = 0.0, None
            if second is not None:
                value = second["mean"]
                band = 0.0 if same_bits else NUM_DEVIATIONS * math.hypot(first["sd"], second["sd"])
            yield compare_numbers(f"{name}: {metric}, last steps", first["mean"], value, band)


def compare_numbers(what: str, original: float, replica: float | None, band: float) -> Drift:
    """Two numbers that must not differ by more than `band`; None = the replica has none."""
    if replica is None:
        return Drift(what, f"{original:.6g}", "missing", "", False)
    is_same = abs(replica - original) <= band
    shown = f"+-{band:.3g}" if band else "equal"
    return Drift(what, f"{original:.6g}", f"{replica:.6g}", shown, is_same)


def compare_hashes(what: str, original: str, replica: str | None) -> Drift:
    """Two SHA-256, of which the first digits are shown."""
    shown = "missing" if replica is None else replica[:12]
    return Drift(what, original[:12], shown, "equal", original == replica)


def half_width(row: Mapping[str, Any]) -> float:
    low, high = row["pass_at_1_ci"]
    return (high - low) / 2


def drifts_as_json(drifts: Sequence[Drift]) -> list[dict[str, Any]]:
    return [asdict(drift) for drift in drifts]
