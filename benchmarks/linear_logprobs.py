"""How fast is the fused head, how much memory does it need, and how far is it from the floor?

    python -m benchmarks.linear_logprobs --device cuda --out FILE.json
    python -m benchmarks.linear_logprobs --device cpu --shapes smollm2 --tokens 4096 --reps 3

Correctness comes first: every contender's log-probs, entropies and gradients against float64, and
the run stops if one of ours is out of bounds. Then contenders are timed in turn, round by round, in
one process after a warm-up; the table gives medians. The floor is measured in the same run: library
matrix products of the same shapes with nothing else. Workspace is peak memory above inputs, outputs
and returned gradients.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.linear_logprobs_contenders import Contender, Inputs, all_contenders
from vibelite.run_dir import write_text_atomic
from vibelite.tables import format_table
from vibelite.telemetry.manifest import describe_hardware
from vibelite.telemetry.memory import resident_bytes, take_peak_bytes

SHAPES = {
    "qwen2.5-1.5b": (1536, 151936),
    "qwen2.5-3b": (2048, 151936),
    "smollm2": (576, 49152),
}
PACKAGES = ("torch", "triton", "liger-kernel", "cut-cross-entropy", "trl", "nvidia-cutlass-dsl")
# Bounds for ours: nats, and relative error of gradients by input dtype (bf16 stores dz and results
# with 8 bits: 1.7e-3 each; float32 sums of 151936 terms).
OUTPUT_BOUND = 3e-5
GRADIENT_BOUND = {torch.bfloat16: 2.6e-3, torch.float32: 1e-5}
GATE_ROWS = 512
SLEEP_CYCLES = 3_000_000  # about 1.7 ms


def make_inputs(num: int, width: int, vocab: int, device: torch.device, seed: int = 0) -> Inputs:
    """Random inputs whose logits have standard deviation 2: bf16 on a GPU, float32 on a CPU."""
    generator = torch.Generator(device).manual_seed(seed)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    targets = torch.randint(0, vocab, (num,), device=device, generator=generator)
    return Inputs(
        hidden=normal(num, width).to(dtype),
        weight=(normal(vocab, width) * (2 / width**0.5)).to(dtype),
        targets=targets,
        grad_logprobs=normal(num),
        grad_entropy=0.1 * normal(num),
    )


def float64_results(
    inputs: Inputs, upstream: tuple[torch.Tensor, torch.Tensor]
) -> list[torch.Tensor]:
    """Log-probs, entropies and gradients of both inputs in float64."""
    hidden, weight = (leaf.detach().double().requires_grad_() for leaf in inputs.leaves())
    log_p = torch.log_softmax(hidden @ weight.T, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    logprobs = log_p.gather(1, inputs.targets[:, None]).squeeze(1)
    grads = torch.autograd.grad(
        [logprobs, entropy], [hidden, weight], [grad.double() for grad in upstream]
    )
    return [logprobs.detach(), entropy.detach(), *grads]


def errors(contender: Contender, inputs: Inputs) -> dict[str, float]:
    """Largest error of log-probs and entropies in nats, relative error of both gradients."""
    expected = float64_results(inputs, contender.upstream(inputs))
    found = {}
    if contender.forward is not None:
        for name, got, want in zip(
            ("logprob", "entropy"), contender.forward(inputs), expected[:2], strict=True
        ):
            if got is not None:
                found[name] = (got.double() - want).abs().max().item()
    for name, got, want in zip(
        ("grad_hidden", "grad_weight"), contender.step(inputs), expected[2:], strict=True
    ):
        found[name] = ((got.double() - want).norm() / want.norm()).item()
    return found


def passes_gate(found: dict[str, float], dtype: torch.dtype) -> bool:
    outputs = all(found.get(name, 0.0) <= OUTPUT_BOUND for name in ("logprob", "entropy"))
    gradients = (found["grad_hidden"], found["grad_weight"])
    return outputs and all(error <= GRADIENT_BOUND[dtype] for error in gradients)


class Clock:
    """Milliseconds and peak bytes of a call on a device."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"

    def milliseconds(self, call: Callable[[], object]) -> float:
        if not self.is_cuda:
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        # Keeps the queue filled, as the layers before the head do in training; what a head makes
        # the host wait for later still counts.
        torch.cuda._sleep(SLEEP_CYCLES)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def workspace_bytes(self, call: Callable[[], object]) -> int:
        """Peak above what is allocated before and what the call returns."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            result = call()
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
        else:
            take_peak_bytes()
            before = resident_bytes()
            result = call()
            peak = take_peak_bytes()
        return max(peak - before - tensor_bytes(result), 0)


def tensor_bytes(result: object) -> int:
    if isinstance(result, torch.Tensor):
        return result.numel() * result.element_size()
    return sum(map(tensor_bytes, result)) if isinstance(result, (tuple, list)) else 0


def measure_floor(inputs: Inputs, clock: Clock, reps: int) -> dict[str, float]:
    """Milliseconds of the three products of the head, at most 8192 rows at a time."""
    hidden, weight = inputs.hidden, inputs.weight
    rows = min(len(hidden), 8192)
    logits = hidden[:rows] @ weight.T
    out = torch.empty_like(weight)
    calls = {
        "logits": lambda: torch.mm(hidden[:rows], weight.T, out=logits),
        "grad_hidden": lambda: torch.mm(logits, weight),
        "grad_weight": lambda: torch.mm(logits.T, hidden[:rows], out=out),
    }
    scale = len(hidden) / rows
    found = {}
    for name, call in calls.items():
        call()
        found[name] = scale * statistics.median(clock.milliseconds(call) for _ in range(reps))
    found["forward"] = found["logits"]
    found["six_products"] = found["logits"] + found["grad_hidden"] + found["grad_weight"]
    found["eight_products"] = found["six_products"] + found["logits"]
    return found


def measure(
    contenders: list[Contender], inputs: Inputs, clock: Clock, reps: int
) -> dict[str, dict[str, float | str]]:
    """Median and range of forward and of forward + backward, and workspaces, per contender."""
    rows: dict[str, dict[str, float | str]] = {}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for contender in contenders:
        rows[contender.name] = {"outputs": contender.outputs}
        for kind in ("forward", "step"):
            run = getattr(contender, kind)
            if run is None:
                continue
            call = lambda run=run: run(inputs)  # noqa: E731
            try:
                call()
                rows[contender.name][f"{kind}_workspace_mib"] = clock.workspace_bytes(call) / 2**20
                calls[contender.name, kind] = call
            except torch.OutOfMemoryError:
                rows[contender.name][kind] = "out of memory"
            except Exception as error:  # a rival's failure is a result
                if contender.is_ours:
                    raise
                rows[contender.name][kind] = f"{type(error).__name__}"
            if clock.is_cuda:
                torch.cuda.empty_cache()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(reps):
        for key, call in calls.items():
            times[key].append(clock.milliseconds(call))
    for (name, kind), values in times.items():
        rows[name][f"{kind}_ms"] = statistics.median(values)
        rows[name][f"{kind}_range_ms"] = f"{min(values):.2f}-{max(values):.2f}"
    return rows


def environment() -> dict[str, object]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "threads": torch.get_num_threads()} | describe_hardware()


def print_case(case: dict, floor: dict[str, float], rows: dict[str, dict]) -> None:
    """One markdown table: times, distance from the floor, workspaces."""
    n, h, v = case["tokens"], case["width"], case["vocab"]
    print(f"\n### {case['shape']}: N = {n}, H = {h}, V = {v}")
    print(
        f"floor (measured products): forward {floor['forward']:.2f} ms, "
        f"6 products {floor['six_products']:.2f}, 8 products {floor['eight_products']:.2f}\n"
    )
    header = ["head", "gives", "forward ms", "fwd+bwd ms", "/ 8-product floor", "workspace MiB"]
    cells = []
    for name, row in rows.items():
        step = row.get("step_ms")
        ratio = f"{step / floor['eight_products']:.2f}" if step else "-"
        size = f"{row['step_workspace_mib']:.0f}" if "step_workspace_mib" in row else "-"
        times = _number(row, "forward"), _number(row, "step")
        cells.append([name, row["outputs"], *times, ratio, size])
    print(format_table(header, cells), flush=True)


def _number(row: dict, kind: str) -> str:
    value = row.get(f"{kind}_ms")
    return f"{value:.2f}" if value is not None else row.get(kind, "-")


def write_report(path: Path | None, report: dict[str, object]) -> None:
    """After every gate and every case, so that a run that is stopped leaves what it had."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192])
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--only", nargs="+", help="contenders whose names contain one of these")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no case after this")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments, start = parse_arguments(), time.monotonic()
    device = torch.device(arguments.device)
    contenders, missing = all_contenders(device)
    if arguments.only:
        contenders = [one for one in contenders if any(part in one.name for part in arguments.only)]
    report = {"environment": environment(), "missing": missing, "gate": {}, "cases": []}
    clock = Clock(device)
    print(json.dumps(report["environment"]), "\nmissing:", missing)
    for shape in arguments.shapes:
        width, vocab = SHAPES[shape]
        gate_inputs = make_inputs(GATE_ROWS, width, vocab, device, seed=1)
        for contender in list(contenders):
            try:
                found = errors(contender, gate_inputs)
            except Exception as error:  # a rival that cannot run here is reported, not fatal
                if contender.is_ours:
                    raise
                missing[contender.name] = f"{type(error).__name__}: {error}"[:300]
                contenders.remove(contender)
                print("left out:", contender.name, missing[contender.name])
                continue
            report["gate"].setdefault(shape, {})[contender.name] = found
            print(shape, contender.name, {key: f"{value:.1e}" for key, value in found.items()})
            if contender.is_ours and not passes_gate(found, gate_inputs.hidden.dtype):
                sys.exit(f"{contender.name} is out of bounds: nothing was timed")
        del gate_inputs
        write_report(arguments.out, report)
        for tokens in arguments.tokens:
            if time.monotonic() - start > arguments.seconds:
                print("time is up before", shape, tokens)
                continue
            torch._dynamo.reset()
            inputs = make_inputs(tokens, width, vocab, device)
            floor = measure_floor(inputs, clock, arguments.reps)
            rows = measure(contenders, inputs, clock, arguments.reps)
            case = {"shape": shape, "tokens": tokens, "width": width, "vocab": vocab}
            print_case(case, floor, rows)
            report["cases"].append({**case, "floor_ms": floor, "results": rows})
            write_report(arguments.out, report)


if __name__ == "__main__":
    main()
