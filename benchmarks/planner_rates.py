"""How fast one thread of this processor is right now: the rates from which a plan for it is made.

    python -m benchmarks.planner_rates

Every rate is that of one plain operation on sizes which no measured configuration has; none is
fitted to training steps. Times are seconds of the process on the processor, so that a machine's
other users count only as far as they slow down the processor itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from statistics import median

import torch

from benchmarks.random_policy import random_batch, random_policy, train
from vibelite.kernels import HeadCall, linear_token_loss
from vibelite.models.attention import _attend
from vibelite.models.policy import Policy
from vibelite.planning.devices import CpuRates, ProductRates
from vibelite.rollout.engine import SamplingSettings
from vibelite.rollout.transformers_engine import TransformersEngine, sample_tokens

# A model whose arithmetic takes no time.
TOY = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}  # fmt: skip
MIB = 1 << 20


def seconds_of(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Median seconds on the processor, after one unmeasured time."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return median(found)


def product_rates(dtype: torch.dtype, precision: str) -> ProductRates:
    """Products with weights that are not in the processor's caches, and causal attention.

    A weight of 50 MB times 16 rows: nothing counts but its passing. 16 weights of 512 x 1280 times
    1024 rows: arithmetic and their passing. Attention of 4 x 8 heads over 192 tokens, forward and
    backward 3.5 times 4 x head size x T^2 / 2 each.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        few, large = torch.randn(16, 768).to(dtype), torch.randn(16 * 1024, 768).to(dtype)
        passing = large.numel() * large.element_size() / seconds_of(lambda: few @ large.T)
        seconds, num_bytes = many_rows(dtype)
        flops = 2 * 1024 * 512 * 1280 / max(seconds - num_bytes / passing, 0.2 * seconds)
        attended = attention_flops(dtype)
    finally:
        torch.set_float32_matmul_precision(before)
    return ProductRates(flops, passing, attended)


def many_rows(dtype: torch.dtype) -> tuple[float, int]:
    """Seconds of one product of 1024 rows with a weight of 512 x 1280, and the weight's bytes."""
    rows = torch.randn(1024, 512).to(dtype)
    weights = torch.randn(16, 1280, 512).to(dtype)
    out = torch.empty(1024, 1280, dtype=dtype)

    def work() -> None:
        for weight in weights:
            torch.mm(rows, weight.T, out=out)

    return seconds_of(work) / 16, weights[0].numel() * weights.element_size()


def attention_flops(dtype: torch.dtype, tokens: int = 192) -> float:
    query, key, value = (
        torch.randn(4, 8, tokens, 64, dtype=dtype, requires_grad=True) for _ in range(3)
    )

    def work() -> None:
        out = _attend(query, key, value, is_causal=True)
        torch.autograd.grad(out, (query, key, value), torch.ones_like(out))

    return 4 * 8 * 3.5 * 2 * tokens**2 * 64 / seconds_of(work)


def measure_rates() -> CpuRates:
    """All rates, in about a second."""
    large = torch.randn(32 * MIB)
    policy = random_policy(TOY, dtype=torch.float32)
    batch = random_batch([8], TOY["vocab_size"], trained_share=0.5)
    layers = TOY["num_hidden_layers"]
    logits, uniforms = torch.randn(64, 8192), torch.rand(64)
    settings = SamplingSettings(1, 1, 1.0, 1.0)
    return CpuRates(
        float32=product_rates(torch.float32, "highest"),
        medium=product_rates(torch.float32, "medium"),
        bfloat16=product_rates(torch.bfloat16, "highest"),
        written_bytes_per_second=64 * MIB / seconds_of(lambda: large[: 16 * MIB] + 1.0),
        read_bytes_per_second=128 * MIB / seconds_of(large.sum),
        layer_seconds=seconds_of(lambda: train(policy, batch), repeats=5) / layers,
        decode_layer_seconds=decode_seconds(policy) / layers,
        logit_seconds=logit_seconds(),
        sampling_seconds=seconds_of(lambda: sample_tokens(logits, uniforms, settings))
        / logits.numel(),
    )


def logit_seconds(tokens: int = 256, vocab_size: int = 16384) -> float:
    """Of the fused loss at a width at which its products take no time."""
    hidden = torch.randn(tokens, 8, requires_grad=True)
    weight = torch.randn(vocab_size, 8, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.long)

    def work() -> None:
        call = HeadCall(hidden, weight, targets)
        linear_token_loss(call, lambda logprobs, _, rows: -logprobs)

    return seconds_of(work) / (tokens * vocab_size)


@torch.inference_mode()
def decode_seconds(policy: Policy) -> float:
    """Of one token of one row."""
    engine = TransformersEngine(policy, stop_ids=(), max_sequences=1)
    logits, state = engine._prefill([[1, 2, 3]], 1)
    del logits
    return seconds_of(lambda: engine._decode(torch.tensor([1]), state), repeats=9)


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps(asdict(measure_rates()), indent=1))


if __name__ == "__main__":
    main()
