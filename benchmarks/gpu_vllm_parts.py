"""vLLM in the trainer's process: how long it takes to start, sleep, wake and take over weights,
what memory it leaves, whether its log-probs are the trainer's, and how fast it samples beside vLLM
alone.

    python -m benchmarks.gpu_suite --out gpu.json --only vllm vllm-alone vllm-copy ...
    python -m benchmarks.gpu_vllm_parts --part alias --out FILE.json [--model DIRECTORY] [--tiny]

Random weights of Qwen2.5-1.5B's exact dimensions in bfloat16, or the model in DIRECTORY. Each part
is for a process of its own; it writes what it has after every measurement. `--tiny`: a tiny model,
also on a CPU, where nothing really sleeps and memory is not told.

Sampling: random prompts of 64 tokens, no stop tokens, P x 1 completions of exactly T tokens.
`inside` is `LLM.generate` of the very same vLLM without log-probs, seeds and checks, taking turns
with ours; the parts `alone` are vLLM by itself in a process without a trainer. `--short` leaves out
the longest completions, which take most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.gpu_activations import QWEN_1_5B
from benchmarks.random_policy import NoText, now, random_policy, random_prompts
from vibelite.algorithms.policy_loss import mismatch_metrics
from vibelite.data.batching import TrainingSequence, pack
from vibelite.models.load import default_device, load_policy
from vibelite.models.policy import Policy
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.kv_memory import BatchSizes, engine_shape
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.rollout.vllm_start import VLLMSettings, is_vllm_installed
from vibelite.run_dir import write_text_atomic
from vibelite.telemetry.manifest import describe_hardware

# Heads of 32 numbers are the smallest that vLLM's attention for the CPU takes.
TINY: Mapping[str, Any] = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}  # fmt: skip
PROMPT_TOKENS = 64
LAST_CHARACTERS = 3000


@dataclass(frozen=True, slots=True)
class Part:
    """One process: a way to share weights and to sleep, or vLLM alone."""

    name: str
    sync: str
    sleeps: bool
    speeds: bool = False
    cuda_graphs: str = "decode"


PARTS = (
    Part("alias", "alias", True, speeds=True),
    Part("alone", "", False, speeds=True),
    Part("copy", "copy", True),
    Part("alone-compiled", "", False, speeds=True, cuda_graphs="full"),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """completions x tokens that are timed, rounds of each, and tokens of the mismatch's samples."""

    speeds: tuple[tuple[int, int, int], ...]
    cycles: int
    probe: tuple[int, int]


BIG = Sizes(((64, 1024, 3), (16, 8192, 1)), 5, (16, 512))
SHORT = replace(BIG, speeds=BIG.speeds[:1])
SMALL = Sizes(((8, 32, 2),), 2, (4, 16))


class Notes:
    """Results by measurement, on disk after each; a failed one is noted, and the next follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Any] = {}

    def measure(
        self,
        name: str,
        function: Callable[[], Any],
        describe: Callable[[Any], Mapping[str, Any]] = dict,
    ) -> Any:
        """What `function` returns, or None where it raised; `describe` of it is written down, or
        the text of the error.
        """
        begun, value, failed = time.perf_counter(), None, {}
        try:
            value = function()
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            failed = {"failed": f"{type(error).__name__}: {error}"[-LAST_CHARACTERS:]}
        self.results[name] = {
            **(failed or describe(value)),
            "measured_in_seconds": round(time.perf_counter() - begun, 3),
        }
        print(f"{name}: {json.dumps(self.results[name])}", flush=True)
        write_text_atomic(self.path, json.dumps(self.results))
        return value


def run_part(
    part: Part, path: Path, sizes: Sizes, *, model: str | None, tiny: bool
) -> Mapping[str, Any]:
    """All measurements of one part in this process; `path` receives them."""
    notes = Notes(path)
    device = default_device()
    policy = notes.measure("policy", lambda: make_policy(model, tiny, device), model_sizes)
    if policy is None:
        return notes.results
    before = used_bytes(device)
    engine = notes.measure(
        "start", lambda: start(policy, part, sizes),
        lambda engine: memory(engine, policy, before=before),
    )  # fmt: skip
    if engine is None:
        return notes.results
    if part.sync:
        notes.measure("mismatch", lambda: mismatch(policy, engine, sizes))
        notes.measure("cycles", lambda: cycles(policy, engine, sizes))
        notes.measure("mismatch_after_updates", lambda: mismatch(policy, engine, sizes))
        notes.measure("planted_fault", lambda: planted_fault(policy, engine))
    for completions, tokens, rounds in sizes.speeds if part.speeds else ():
        timed = partial(speed, policy, engine, part, completions, tokens, rounds)
        notes.measure(f"speed_{completions}x{tokens}", timed)
    if part.sync:
        notes.measure("close", engine.close, lambda _: {"used_bytes": used_bytes(device)})
        notes.measure("again", lambda: again(policy, part, sizes))
    return notes.results


def model_sizes(policy: Policy) -> dict[str, Any]:
    import vllm  # pyright: ignore[reportMissingImports]

    parameters = list(policy.model.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weight_bytes": sum(parameter.nbytes for parameter in parameters),
        "dtype": str(policy.head.weight.dtype),
        "torch": torch.__version__,
        "vllm": vllm.__version__,
        "hardware": describe_hardware(),
    }


def make_policy(model: str | None, tiny: bool, device: torch.device) -> Policy:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if model:
        policy = load_policy(model, dtype=str(dtype).removeprefix("torch."))
        policy.model.to(cast(Any, device))
        return policy
    policy = random_policy(TINY if tiny else QWEN_1_5B, dtype=dtype, device=device)
    return replace(policy, tokenizer=cast(Any, NoText()))


def settings_of(policy: Policy, part: Part, sizes: Sizes) -> VLLMSettings:
    """Room for all timed completions at once, at their full length."""
    longest = max(tokens for _, tokens, _ in sizes.speeds) + PROMPT_TOKENS
    most = max(*(count for count, _, _ in sizes.speeds), sizes.probe[0])
    dtype = policy.head.weight.dtype
    shape = engine_shape(policy.model.config, dtype, BatchSizes(most, longest, 8192))
    whole = max(count * (tokens + PROMPT_TOKENS + 32) for count, tokens, _ in sizes.speeds)
    return VLLMSettings(
        stop_ids=(), max_sequences=most, max_model_len=longest,
        kv_cache_bytes=max(whole, longest + 32) * shape.bytes_per_token + (64 << 20),
        dtype=str(dtype).removeprefix("torch."), sync=cast(Any, part.sync or "copy"),
        sleeps=part.sleeps, cuda_graphs=cast(Any, part.cuda_graphs),
    )  # fmt: skip


def start(policy: Policy, part: Part, sizes: Sizes) -> VLLMEngine:
    engine = VLLMEngine(policy, settings_of(policy, part, sizes))
    if not part.sync:  # nothing of the trainer's stays beside vLLM alone
        torch.nn.Module.to(policy.model, "cpu")
    return engine


def memory(engine: VLLMEngine, policy: Policy, *, before: int | None) -> dict[str, Any]:
    return {
        "sync_way": engine.settings.sync,
        "kv_cache_bytes": engine.settings.kv_cache_bytes,
        "used_bytes_before": before,
        "used_bytes": used_bytes(policy.device),
    }


def used_bytes(device: torch.device) -> int | None:
    """Of the whole GPU, as its driver counts; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def prompts_of(policy: Policy, count: int) -> list[list[int]]:
    return random_prompts(policy.model.config.vocab_size, count, PROMPT_TOKENS)


def mismatch(policy: Policy, engine: VLLMEngine, sizes: Sizes) -> dict[str, float]:
    """The sampler's log-probs against `Policy.logprobs` on its own samples."""
    count, tokens = sizes.probe
    prompts = prompts_of(policy, count)
    groups = generate(engine, prompts, SamplingSettings(1, tokens), seed=1)
    sequences = [
        TrainingSequence(
            (*prompt, *one.token_ids),
            len(prompt),
            sampler_logprobs=one.sampler_logprobs,
        )
        for prompt, (one,) in zip(prompts, groups, strict=True)
    ]
    with torch.no_grad():
        batch = pack(sequences, policy.device)
        logprobs, entropy = policy.logprobs(batch)
    assert batch.sampler_logprobs is not None, "completions carry the sampler's log-probs"
    metrics = mismatch_metrics(logprobs - batch.sampler_logprobs[batch.completion_mask])
    return metrics | {"tokens": float(len(logprobs)), "entropy": entropy.mean().item()}


def cycles(policy: Policy, engine: VLLMEngine, sizes: Sizes) -> dict[str, Any]:
    """Sleep, change every weight, sync, wake, sample: seconds and memory of each."""
    device = policy.device
    rows: list[dict[str, float]] = []
    asleep = None
    settings = SamplingSettings(1, 4)
    for cycle in range(sizes.cycles):
        times = [now(device)]
        engine.sleep()
        times.append(now(device))
        asleep = used_bytes(device)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.0 + 2.0**-7)
        times.append(now(device))
        engine.load_weights(cycle + 1)
        times.append(now(device))
        engine.wake()
        times.append(now(device))
        generate(engine, prompts_of(policy, 2), settings, seed=cycle)
        metrics = engine.metrics()
        rows.append(
            {
                "sleep_seconds": times[1] - times[0],
                "load_seconds": times[3] - times[2],
                "wake_seconds": times[4] - times[3],
                "push_seconds": metrics["sync/seconds"],
                "check_seconds": metrics["sync/check_seconds"],
                "copied_bytes": metrics["sync/copied_bytes"],
            }
        )
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    total = [row["sleep_seconds"] + row["load_seconds"] + row["wake_seconds"] for row in rows]
    return medians | {
        "total_seconds": statistics.median(total),
        "total_range": [min(total), max(total)],
        "used_bytes_asleep": asleep,
        "used_bytes_awake": used_bytes(device),
        "rows": rows,
    }


def planted_fault(policy: Policy, engine: VLLMEngine) -> dict[str, Any]:
    """Changes one weight without a sync; what the next sampling says."""
    parameter = next(policy.model.parameters())
    before = parameter.detach().clone()
    message = None
    with torch.no_grad():
        parameter.mul_(1.5)
    try:
        generate(engine, prompts_of(policy, 1), SamplingSettings(1, 2), seed=0)
    except Exception as error:
        message = str(error)
    with torch.no_grad():
        parameter.copy_(before)
    engine.load_weights(100)
    assert message is not None, "a skipped sync was not noticed"
    return {"message": message}


def speed(
    policy: Policy, engine: VLLMEngine, part: Part, completions: int, tokens: int, rounds: int
) -> dict[str, Any]:
    """Tokens per second of ours and of the bare `LLM.generate`, taking turns after a warm-up."""
    prompts = prompts_of(policy, completions)
    sides = {"inside" if part.sync else "alone": lambda: bare(engine, prompts, tokens)}
    if part.sync:
        sides["ours"] = lambda: ours(engine, prompts, tokens)
    for side in sides:
        {"ours": lambda: ours(engine, prompts, 8)}.get(side, lambda: bare(engine, prompts, 8))()
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, sample in sides.items():
            begun = time.perf_counter()
            assert sample() == completions * tokens, f"{side} ended early"
            rates[side].append(completions * tokens / (time.perf_counter() - begun))
    result: dict[str, Any] = {f"{side}_tokens_per_second": r for side, r in rates.items()}
    if part.sync:
        medians = {side: statistics.median(values) for side, values in rates.items()}
        result["ours_of_inside"] = medians["ours"] / medians["inside"]
        result["metrics"] = engine.metrics()
    return result


def ours(engine: VLLMEngine, prompts: list[list[int]], tokens: int) -> int:
    engine._llm.llm_engine.reset_prefix_cache()
    groups = generate(engine, prompts, SamplingSettings(1, tokens), seed=2)
    return sum(len(one.token_ids) for group in groups for one in group)


def bare(engine: VLLMEngine, prompts: list[list[int]], tokens: int) -> int:
    """The same batch by vLLM's own loop, with its fastest settings of sampling."""
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

    llm = engine._llm
    llm.llm_engine.reset_prefix_cache()
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, detokenize=False)
    inputs = cast(Any, [{"prompt_token_ids": prompt} for prompt in prompts])
    outputs = llm.generate(inputs, params, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def again(policy: Policy, part: Part, sizes: Sizes) -> dict[str, Any]:
    """A second engine in the same process, as the next stage of a run builds it."""
    begun = time.perf_counter()
    engine = start(policy, part, sizes)
    result: dict[str, Any] = {"start_seconds": time.perf_counter() - begun}
    engine.sleep()
    engine.wake()
    result |= mismatch(policy, engine, sizes)
    engine.close()
    return result | {"used_bytes_closed": used_bytes(policy.device)}


def main() -> None:
    parts = {part.name: part for part in PARTS}
    parser = argparse.ArgumentParser(description="vLLM in the trainer's process.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=list(parts), required=True)
    parser.add_argument("--model", help="a Hugging Face directory instead of random weights")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, also on a CPU")
    parser.add_argument("--short", action="store_true", help="only the shortest timed completions")
    arguments = parser.parse_args()
    if not is_vllm_installed():
        arguments.out.write_text(json.dumps({"left_out": "vLLM is not installed"}) + "\n")
        return
    # As the engine sets it; here already, so that nothing imported earlier decides otherwise.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    sizes = SMALL if arguments.tiny else SHORT if arguments.short else BIG
    part = parts[arguments.part]
    results = run_part(part, arguments.out, sizes, model=arguments.model, tiny=arguments.tiny)
    sys.exit(any("failed" in row for row in results.values()))


if __name__ == "__main__":
    main()
