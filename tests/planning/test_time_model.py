"""Seconds of stages, on GPUs and on a processor: by hand on a model of a few hundred weights."""

import math
from dataclasses import replace

import pytest

from vibelite.planning.cpu_time import (
    generate_seconds,
    muon_flops,
    optimizer_seconds,
    products_of,
    train_seconds,
)
from vibelite.planning.devices import CpuRates, Gpu, ProductRates
from vibelite.planning.memory_model import StageConfig
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.time_model import (
    attention_flops,
    communicated_bytes,
    generation_seconds,
    layer_bytes,
    passes,
    passes_of_a_rank,
    product_flops,
    stage_seconds,
    training_seconds,
    update_seconds,
)
from vibelite.planning.workload import Assumptions, Work
from vibelite.recipe.model_section import Adapter, Training
from vibelite.recipe.stage_section import Optimizer

# 2 layers of 576 weights (H 8, MLP 16, 2 heads of 4 on 1) and 32 x 8 of the embedding.
SHAPE = ModelShape(2, 8, 16, 2, 1, 4, 32, True)
PARAMETERS = 2 * 576 + 256
ADAMW = Optimizer(kind="adamw", lr=1e-6)
BFLOAT16 = Training(dtype="bfloat16")
# A GPU that computes 1000 operations and moves 100 bytes a second.
GPU = Gpu("toy", 1 << 30, 100.0, 1000.0)
WORK = Work(
    "mgpo", "mgpo", num_steps=2, prompts=3.0, completions=12.0, max_new_tokens=20, rows=6,
    prompts_at_once=2, num_updates=2, trained_tokens=100.0, scored_tokens=10.0, trained_length=20.0,
    head_share=0.5, num_micro_batches=4.0, micro_batch_tokens=64,
)  # fmt: skip


def setting(training=BFLOAT16, **values):
    assume = Assumptions(
        prompt_tokens=10.0, matmul_efficiency=0.5, attention_efficiency=0.25, layer_traffic=2.0,
        adapter_traffic=3.0, decode_efficiency=0.5, decode_step_seconds=1.0, decode_row_seconds=0.1,
        link_gb_per_second=1e-9,
    )  # fmt: skip
    return StageConfig(SHAPE, training, assume, **values)


@pytest.mark.parametrize(
    ("training", "products", "attention"),
    [
        # A forward pass: 2304 a token in layers, 256 in the head; 640 in attention over 10 others.
        (BFLOAT16, 100 * (3 * 2304 + 3 * 256) + 10 * 2560, 100 * 3.5 * 640 + 10 * 640),
        (
            Training(activations="checkpoint"),
            100 * (4 * 2304 + 3 * 256) + 10 * 2560,
            100 * 4.5 * 640 + 10 * 640,
        ),
        # The MLP is 384 of 576 weights; tiles of 32 are smaller than micro-batches of 64.
        (
            Training(mlp_tile_tokens=32),
            100 * (3 * 2304 + 1536 + 3 * 256) + 10 * 2560,
            100 * 3.5 * 640 + 10 * 640,
        ),
        (Training(mlp_tile_tokens=64), 793_600, 230_400),
    ],
)
def test_operations_of_training(training, products, attention):
    assert product_flops(SHAPE, WORK, training) == pytest.approx(products)
    assert attention_flops(SHAPE, WORK, training) == pytest.approx(attention)


def test_frozen_weights_have_no_gradient():
    # Forward and to the input: two passes of layers and head in place of three.
    found = product_flops(SHAPE, WORK, BFLOAT16, has_adapter=True)
    assert found == pytest.approx(100 * 2 * 2560 + 10 * 2560)


def test_training_takes_products_attention_and_the_traffic_of_what_layers_keep():
    # A layer keeps of a token in bfloat16: 16 of its input, 48 of residual and norms, 48 + 8 of
    # attention, 128 of the MLP, 2 x (16 + 32 + 4) of the norms.
    kept = 2 * (16 + 48 + 56 + 128 + 104)
    assert layer_bytes(SHAPE, 2) == kept
    times = 3 * 100 + 10
    seconds = 793_600 / 500 + 230_400 / 250 + times * 2 * kept / 100
    assert training_seconds(setting(), WORK, GPU) == pytest.approx(seconds)
    # Maps of 8 to 8, 4, 4, 8 and thrice 8 and 16: their inputs and outputs once more.
    widths = 2 * (16 + 12 + 12 + 16 + 3 * 24)
    adapter = setting(adapter=Adapter(kind="lora", rank=4, targets=["q_proj"]))
    frozen = 100 * 2560 / 500
    with_adapter = seconds - frozen + times * 3 * 2 * widths / 100
    assert training_seconds(adapter, WORK, GPU) == pytest.approx(with_adapter)


def test_what_is_computed_again_is_a_pass_more():
    assert passes(SHAPE, WORK, BFLOAT16) == 3
    tiles = Training(mlp_tile_tokens=32)
    assert passes(SHAPE, WORK, tiles) == pytest.approx(3 + 384 / 576)
    both = Training(mlp_tile_tokens=32, activations="checkpoint")
    assert passes(SHAPE, WORK, both) == 4


def test_decoding_reads_weights_and_cache_in_every_step_of_six_rows():
    # 12 completions of 10 tokens by 6 rows: 20 steps. Weights 2816 bytes; each row holds on average
    # 15 tokens of 2 layers x 2 x 4 numbers of 2 bytes.
    moved = 2 * PARAMETERS + 6 * 15 * 32
    prompts = 2 * PARAMETERS * 3 * 10 / (1000 * 0.5)
    found = generation_seconds(SHAPE, WORK, GPU, setting().assumed, 2)
    assert found == pytest.approx(20 * (moved / 50 + 1.0) + prompts)
    # vLLM's scheduler: a tenth of a second for each of 6 rows.
    by_vllm = generation_seconds(SHAPE, replace(WORK, is_paged=True), GPU, setting().assumed, 2)
    assert by_vllm == pytest.approx(20 * (moved / 50 + 1.6) + prompts)
    assert generation_seconds(SHAPE, replace(WORK, completions=0), GPU, setting().assumed, 2) == 0


def test_gpus_that_hold_an_engine_together_take_every_step_together():
    one, two = (
        stage_seconds(setting(num_gpus=2, tensor_parallel=n), WORK, GPU).generate for n in (1, 2)
    )
    # 20 steps of 6 rows: by two engines 10 each, by one all of them. Its parts are read as fast.
    assert two - one == pytest.approx((20 - 10) * 1.0)


def test_an_update_moves_masters_moments_gradient_and_weights():
    # bfloat16 weights, float32 masters, moments and gradients: 2 x (4 + 8) + 2 x 4 + 2.
    known = setting(optimizer=ADAMW)
    assert update_seconds(known, GPU) == pytest.approx(PARAMETERS * 34 / 100)
    assert update_seconds(replace(known, num_gpus=4), GPU) == pytest.approx(PARAMETERS * 34 / 400)
    assert update_seconds(setting(), GPU) == 0


def test_gpus_share_the_work_and_send_gradients_and_weights():
    one, four = (stage_seconds(setting(optimizer=ADAMW, num_gpus=n), WORK, GPU) for n in (1, 4))
    assert four.generate == pytest.approx(one.generate / 4)
    assert four.train == pytest.approx(one.train / 4)
    assert one.communicate == 0
    # 3/4 of (4 bytes of gradient + 2 of weight), at a byte a second, twice.
    assert communicated_bytes(setting(), 4) == 0.75 * 6 * PARAMETERS
    assert four.communicate == pytest.approx(2 * 0.75 * 6 * PARAMETERS)
    adapter = setting(adapter=Adapter(kind="lora", rank=4, targets=["q_proj"]))
    assert communicated_bytes(adapter, 2) == 0.5 * 6 * (2 * 4 * (8 + 8))


def test_cut_weights_are_sent_in_every_pass():
    """4 bytes of gradient and 2 of weight: layers twice, the rest once, then all whole."""
    shape = setting().shape
    layers = shape.num_layers * shape.layer_parameters
    a_pass = 2 * (2 * layers + shape.embedding_parameters) + 4 * PARAMETERS
    cut = setting(optimizer=ADAMW, num_gpus=4, sharding="full")
    assert communicated_bytes(cut, 4, 3) == 0.75 * (3 * a_pass + 2 * PARAMETERS)
    assert communicated_bytes(replace(cut, num_gpus=1), 1, 3) == 0
    shared = replace(WORK, num_micro_batches=24, num_updates=2)
    assert passes_of_a_rank(shared, cut) == 3
    assert passes_of_a_rank(replace(shared, num_micro_batches=2), cut) == 1
    assert stage_seconds(cut, shared, GPU).communicate == 2 * communicated_bytes(cut, 4, 3)


# A processor for which nothing takes time; tests give it one cost at a time.
FREE = ProductRates(math.inf, math.inf, math.inf)
NO_TIME = CpuRates(FREE, FREE, FREE, math.inf, math.inf, 0.0, 0.0, 0.0, 0.0)


def with_products(**rates):
    return replace(NO_TIME, float32=replace(FREE, **rates))


def test_a_processor_trains_at_the_rates_of_its_products():
    known = setting(Training(), is_cpu=True, optimizer=ADAMW)

    def seconds(rates):
        return train_seconds(known, WORK, rates, "float32")

    assert seconds(NO_TIME) == 0
    head = 2 * 256 * (3 * 100 + 10) * 0.5
    assert seconds(with_products(flops=1.0)) == pytest.approx(2304 * (3 * 100 + 10) + head)
    attention = 2 * 8 * 20 * 2 * (3.5 * 100 + 10)
    assert seconds(with_products(attention_flops=1.0)) == pytest.approx(attention)
    passed = 4 * 3 * 1152 * 4
    assert seconds(with_products(weight_bytes_per_second=1.0)) == pytest.approx(passed)
    assert seconds(replace(NO_TIME, layer_seconds=1.0)) == 4 * 2
    assert seconds(replace(NO_TIME, logit_seconds=3.0)) == pytest.approx(0.5 * 310 * 32)
    trained = 33 * 8 + 8 * 16 + 20 * 8 + 21 * 4
    scored = 8 * 8 + 4 * 16 + 9.5 * 8 + 8.5 * 4
    written = 2 * 4 * (100 * trained + 10 * scored)
    assert seconds(replace(NO_TIME, written_bytes_per_second=1.0)) == pytest.approx(written)


def test_the_head_is_multiplied_in_float32_where_layers_are_in_bfloat16():
    known = setting(is_cpu=True, optimizer=ADAMW)
    only_head = train_seconds(known, WORK, with_products(flops=1.0), "bfloat16")
    assert only_head == pytest.approx(2 * 256 * 310 * 0.5)


def test_a_processor_decodes_with_weights_that_pass_in_every_step():
    known = setting(Training(), is_cpu=True)

    def seconds(rates):
        return generate_seconds(known, WORK, rates, "float32")

    assert seconds(NO_TIME) == 0
    # 12 completions of 10 tokens, in two batches: 120 rows' steps, 20 steps and two for prompts.
    flops = 2 * (PARAMETERS * 120 + 1152 * 30)
    assert seconds(with_products(flops=1.0)) == pytest.approx(flops)
    passed = 22 * 4 * PARAMETERS
    assert seconds(with_products(weight_bytes_per_second=1.0)) == pytest.approx(passed)
    cache = 120 * 15 * 2 * 2 * 4 * 4
    assert seconds(replace(NO_TIME, read_bytes_per_second=1.0)) == pytest.approx(cache)
    assert seconds(replace(NO_TIME, sampling_seconds=1.0)) == 120 * 32
    assert seconds(replace(NO_TIME, decode_layer_seconds=1.0)) == 22 * 2
    nothing = replace(WORK, completions=0.0)
    assert generate_seconds(known, nothing, with_products(flops=1.0), "float32") == 0


def test_a_processor_updates_by_reading_everything_twice():
    reading = replace(NO_TIME, read_bytes_per_second=1.0)
    known = setting(Training(), is_cpu=True, optimizer=ADAMW)
    assert optimizer_seconds(known, WORK, reading) == 2 * PARAMETERS * (2 * (4 + 8) + 4 * 4)
    assert optimizer_seconds(setting(is_cpu=True), WORK, reading) == 0


def test_muon_multiplies_five_times():
    def step(m, n):
        return 4 * m * m * n + 2 * m**3

    layer = 2 * step(8, 8) + 2 * step(4, 8) + 3 * step(8, 16)
    assert muon_flops(SHAPE) == 5 * 2 * layer
    multiplying = replace(NO_TIME, bfloat16=replace(FREE, flops=1.0))
    muon = setting(Training(), is_cpu=True, optimizer=Optimizer(kind="muon", lr=1e-3))
    assert optimizer_seconds(muon, WORK, multiplying) == pytest.approx(2 * muon_flops(SHAPE))


@pytest.mark.parametrize(
    ("dtype", "precision", "products"),
    [
        ("float32", "highest", "float32"), ("float32", "medium", "medium"),
        ("bfloat16", "highest", "bfloat16"), ("float16", "highest", "float32"),
    ],
)  # fmt: skip
def test_how_products_are_multiplied(dtype, precision, products):
    assert products_of(Training(dtype=dtype), precision) == products
