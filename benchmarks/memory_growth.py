"""How the memory of one training micro-batch grows with its tokens, 1K to 32K, on a CPU.

    python -m benchmarks.memory_growth [--out FILE.json]

Every point is a process of its own, forked before any model exists. In it one micro-batch goes
forward and backward through `Policy.token_loss` twice, after a small one that makes the gradients'
buffers: once for the peak of resident memory, once for the peak of all that torch's allocator gave
out (torch.profiler sees every allocation, those inside kernels too, so that one is exact). Both are
above what the process held before: model and gradients.

Each setting's allocated bytes are held against `vibelite.planning.activation_memory`, which knows
no term in T x T or T x V: what it leaves unexplained is fitted by a + b T + c T^2, and c T^2 given
as a share of the peak. The last two cases look for such terms where they could hide: in a single
sequence of all T tokens, and in another vocabulary, whose bytes per token must be the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.random_policy import random_batch, random_policy, train
from vibelite.kernels.chunked import BLOCK_ELEMENTS, ROW_ELEMENTS
from vibelite.models.activations import apply_activations
from vibelite.planning.activation_memory import (
    Activations,
    activation_bytes,
    bytes_before_backward,
    head_bytes,
)
from vibelite.planning.model_shape import ModelShape, shape_of_config
from vibelite.recipe.model_section import Training
from vibelite.tables import format_table
from vibelite.telemetry.hardware import describe_hardware, resident_bytes
from vibelite.telemetry.memory import return_freed_tensors, take_peak_bytes

CONFIG = {
    "vocab_size": 32768, "hidden_size": 160, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "tie_word_embeddings": True, "max_position_embeddings": 65536,
}  # fmt: skip
TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
LONGEST = 1024
TRAINED_SHARE = 0.125
WARM_UP_TOKENS = 128
RESULT = Path(__file__).parent / "results" / "memory_growth.json"


@dataclass(frozen=True, slots=True)
class Case:
    """One setting; `longest` = tokens of a sequence, as many sequences as the pack has room for."""

    name: str
    activations: Activations
    mlp_tile_tokens: int = 0
    longest: int = LONGEST
    vocab_size: int = CONFIG["vocab_size"]
    measures_resident: bool = True

    def predicted_bytes(self, tokens: int) -> float:
        shape = shape_of_config(CONFIG | {"vocab_size": self.vocab_size})
        trained = int(TRAINED_SHARE * tokens)
        return predicted_bytes(shape, (tokens, trained), self.activations, self.mlp_tile_tokens, 4)


def predicted_bytes(
    shape: ModelShape,
    tokens: tuple[int, int],
    activations: Activations,
    mlp_tile_tokens: int,
    dtype_bytes: int,
) -> float:
    """The peak on a CPU by `activation_memory`, in the backward pass or when the head is at work;
    `tokens`: all, and the trained ones.

    There an offloaded input is copied back when it is wanted, so one less is on the device.
    """
    num_tokens, trained = tokens
    setting = (shape, num_tokens, activations, mlp_tile_tokens, dtype_bytes)
    backward = activation_bytes(*setting, in_buckets=True)
    forward = bytes_before_backward(*setting, in_buckets=True)
    if activations == "checkpoint_offload":
        backward["kept"] /= 2
    # Whole rows of logits, and two blocks in which they are worked on.
    rows = min(ROW_ELEMENTS["cpu"], trained * shape.vocab_size)
    blocks = 2 * min(BLOCK_ELEMENTS["cpu"], rows)
    head = head_bytes(shape, trained, dtype_bytes, logits=rows + blocks)
    return max(sum(backward.values()) + head["held"], sum(forward.values()) + sum(head.values()))


CASES = (
    Case("keep", "keep"),
    Case("keep, tiled", "keep", 512, measures_resident=False),
    Case("checkpoint", "checkpoint", measures_resident=False),
    Case("checkpoint, tiled", "checkpoint", 512),
    Case("checkpoint_offload, tiled", "checkpoint_offload", 512),
    Case("one sequence", "checkpoint", 512, longest=TOKENS[-1], measures_resident=False),
    Case("V = 8192", "checkpoint", 512, vocab_size=8192, measures_resident=False),
)  # fmt: skip


def peak_allocated_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors allocated during `work` held together, on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = cast(Any, profiler.profiler).kineto_results
    events, changes = list(results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag.name == "Allocation":
            size = cast(Any, event.extra_fields).alloc_size  # negative when freed
            changes.append((event.start_time_ns, size))
    sizes = np.array([size for _, size in sorted(changes, key=lambda change: change[0])])
    return int(sizes.cumsum().max())


def measure_point(case: Case, tokens: int) -> dict[str, Any]:
    """One case at one number of tokens; to be called in a fresh process."""
    torch.set_num_threads(1)
    return_freed_tensors()
    policy = random_policy(CONFIG | {"vocab_size": case.vocab_size}, dtype=torch.float32)
    training = Training(activations=case.activations, mlp_tile_tokens=case.mlp_tile_tokens)
    apply_activations(policy.model, training)
    lengths = [min(case.longest, tokens)] * max(1, tokens // case.longest)
    batch = random_batch(lengths, case.vocab_size, trained_share=TRAINED_SHARE)
    train(policy, random_batch([WARM_UP_TOKENS], case.vocab_size, trained_share=1.0))
    row: dict[str, Any] = {"case": case.name, "tokens": tokens}
    if case.measures_resident:
        take_peak_bytes()
        before = resident_bytes()
        train(policy, batch)
        row["resident_bytes"] = take_peak_bytes() - before
    row["allocated_bytes"] = peak_allocated_bytes(lambda: train(policy, batch))
    row["predicted_bytes"] = round(case.predicted_bytes(tokens))
    row["error"] = row["predicted_bytes"] / row["allocated_bytes"] - 1
    return row


def in_fresh_process(case: Case, tokens: int) -> dict[str, Any]:
    """`measure_point` in a fork of this process, which must not have run torch before."""

    def run(sender: Connection) -> None:
        sender.send(measure_point(case, tokens))

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(sender,))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"{case.name}, {tokens} tokens: the measurement failed") from error
    finally:
        process.join()


def slope(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Bytes per token between the two largest points: below, the head's fixed work is the peak."""
    before, last = sorted(rows, key=lambda row: row["tokens"])[-2:]
    return (last[key] - before[key]) / (last["tokens"] - before["tokens"])


def unexplained_square(rows: Sequence[dict[str, Any]]) -> float:
    """c T^2 of the allocated bytes that are not predicted, as a share of the peak at the largest
    T.
    """
    tokens = np.array([row["tokens"] for row in rows], dtype=np.float64)
    missing = [row["allocated_bytes"] - row["predicted_bytes"] for row in rows]
    quadratic = np.polyfit(tokens, missing, 2)[0]
    return float(quadratic * tokens.max() ** 2 / max(row["allocated_bytes"] for row in rows))


def summary(cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per case: bytes per token, allocated, predicted and resident, and what looks like T^2."""
    found = []
    for case in cases:
        own = [row for row in rows if row["case"] == case.name]
        keys = ["allocated_bytes", "predicted_bytes"]
        keys += ["resident_bytes"] if case.measures_resident else []
        slopes = {key: slope(own, key) for key in keys}
        fits = {"case": case.name, "per_token": slopes, "square_share": unexplained_square(own)}
        found.append(fits)
    return found


def report(rows: Sequence[dict[str, Any]], fits: Sequence[dict[str, Any]]) -> str:
    """Two tables: every point in MB, and the fits."""
    points = [
        [
            row["case"],
            str(row["tokens"]),
            f"{row['allocated_bytes'] / 1e6:.1f}",
            f"{row['predicted_bytes'] / 1e6:.1f}",
            f"{100 * row['error']:+.1f}",
            f"{row['resident_bytes'] / 1e6:.1f}" if "resident_bytes" in row else "",
        ]
        for row in rows
    ]
    slopes = [
        [
            each["case"],
            *(f"{each['per_token'][key]:.0f}" for key in ("allocated_bytes", "predicted_bytes")),
            f"{100 * each['square_share']:+.3f}",
            f"{each['per_token'].get('resident_bytes', float('nan')):.0f}",
        ]
        for each in fits
    ]
    header = ["setting", "tokens", "allocated MB", "predicted", "error %", "resident MB"]
    fitted = ["setting", "B/token", "predicted", "unexplained T^2 %", "resident B/token"]
    return format_table(header, points) + "\n\n" + format_table(fitted, slopes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a micro-batch against its tokens.")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        rows += [in_fresh_process(case, tokens) for tokens in TOKENS]
    fits = summary(CASES, rows)
    print(report(rows, fits))
    result = {
        "model": CONFIG,
        "trained_share": TRAINED_SHARE,
        "cases": [asdict(case) for case in CASES],
        "rows": rows,
        "fits": fits,
        "largest_error": max(abs(row["error"]) for row in rows),
        "torch": torch.__version__,
        "hardware": describe_hardware(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
