"""Seconds of stages, on GPUs and on a processor: by hand on a model of a few hundred weights."""

from dataclasses import replace

import pytest

from vibelite.planning.devices import Device
from vibelite.planning.memory_model import StageConfig
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.time_model import (
    CPU_ATTENTION,
    CPU_BFLOAT16,
    CPU_MEDIUM,
    CPU_TRAFFIC,
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
ADAPTER = Adapter(kind="lora", rank=4, targets=["q_proj"])
# A GPU that computes 1000 operations and moves 100 bytes a second.
GPU = Device("toy", 1 << 30, 100.0, 1000.0)
CPU = replace(GPU, is_cpu=True)
WORK = Work(
    "mgpo", "mgpo", num_steps=2, prompts=3.0, completions=12.0, max_new_tokens=20, rows=6,
    prompts_at_once=2, num_updates=2, trained_tokens=100.0, scored_tokens=10.0, trained_length=20.0,
    head_share=0.5, num_micro_batches=4.0, micro_batch_tokens=64,
)  # fmt: skip
# Of WORK under BFLOAT16.
PRODUCTS, ATTENTION = 793_600, 230_400


def setting(training=BFLOAT16, **values):
    assume = Assumptions(
        prompt_tokens=10.0, matmul_efficiency=0.5, attention_efficiency=0.25, layer_traffic=2.0,
        adapter_traffic=3.0, decode_efficiency=0.5, decode_step_seconds=1.0, decode_row_seconds=0.1,
        link_gb_per_second=1e-9,
    )  # fmt: skip
    return StageConfig(SHAPE, training, assume, **values)


@pytest.mark.parametrize(
    ("training", "products", "attention", "num_passes"),
    [
        # A forward pass: 2304 a token in layers, 256 in the head; 640 in attention over 10 others.
        (BFLOAT16, 100 * (3 * 2304 + 3 * 256) + 10 * 2560, 100 * 3.5 * 640 + 10 * 640, 3),
        (
            Training(activations="checkpoint", mlp_tile_tokens=32),
            100 * (4 * 2304 + 3 * 256) + 10 * 2560,
            100 * 4.5 * 640 + 10 * 640,
            4,
        ),
        # The MLP is 384 of 576 weights; tiles of 32 are smaller than micro-batches of 64.
        (
            Training(mlp_tile_tokens=32),
            100 * (3 * 2304 + 1536 + 3 * 256) + 10 * 2560,
            100 * 3.5 * 640 + 10 * 640,
            3 + 384 / 576,
        ),
        (Training(mlp_tile_tokens=64), PRODUCTS, ATTENTION, 3),
    ],
)
def test_operations_of_training(training, products, attention, num_passes):
    known = setting(training)
    assert product_flops(known, WORK) == pytest.approx(products)
    assert attention_flops(known, WORK) == pytest.approx(attention)
    assert passes(known, WORK) == pytest.approx(num_passes)


def test_training_takes_products_attention_and_the_traffic_of_what_layers_keep():
    # A layer keeps of a token in bfloat16: 16 of its input, 48 of residual and norms, 48 + 8 of
    # attention, 128 of the MLP, 2 x (16 + 32 + 4) of the norms.
    kept = 2 * (16 + 48 + 56 + 128 + 104)
    assert layer_bytes(SHAPE, BFLOAT16) == kept
    times = 3 * 100 + 10
    seconds = PRODUCTS / 500 + ATTENTION / 250 + times * 2 * kept / 100
    assert training_seconds(setting(), WORK, GPU) == pytest.approx(seconds)
    # Maps of 8 to 8, 4, 4, 8 and thrice 8 and 16: their inputs and outputs once more; and frozen
    # weights have no gradient, so that layers and head are passed twice.
    widths = 2 * (16 + 12 + 12 + 16 + 3 * 24)
    assert product_flops(setting(adapter=ADAPTER), WORK) == 100 * 2 * 2560 + 10 * 2560
    frozen = 100 * 2560 / 500
    with_adapter = seconds - frozen + times * 3 * 2 * widths / 100
    assert training_seconds(setting(adapter=ADAPTER), WORK, GPU) == pytest.approx(with_adapter)


@pytest.mark.parametrize(
    ("training", "precision", "faster"),
    [
        (Training(), "highest", 1),
        (Training(), "medium", CPU_MEDIUM),
        (Training(dtype="float16"), "highest", 1),
        (BFLOAT16, "highest", CPU_BFLOAT16),
    ],
)
def test_a_processor_multiplies_faster_by_way_of_bfloat16_and_attends_at_one_rate(
    training, precision, faster
):
    known = setting(training, is_cpu=True, matmul_precision=precision)
    kept = layer_bytes(SHAPE, training)
    seconds = PRODUCTS / (1000 * faster) + ATTENTION / (1000 * CPU_ATTENTION)
    seconds += (3 * 100 + 10) * CPU_TRAFFIC * kept / 100
    assert training_seconds(known, WORK, CPU) == pytest.approx(seconds)


def test_decoding_reads_weights_and_cache_in_every_step_of_six_rows():
    # 12 completions of 10 tokens by 6 rows: 20 steps. Weights 2816 bytes; each row holds on average
    # 15 tokens of 2 layers x 2 x 4 numbers of 2 bytes.
    moved = 2 * PARAMETERS + 6 * 15 * 32
    prompts = 2 * PARAMETERS * 3 * 10 / (1000 * 0.5)
    found = generation_seconds(setting(), WORK, GPU)
    assert found == pytest.approx(20 * (moved / 50 + 1.0) + prompts)
    # vLLM's scheduler: a tenth of a second for each of 6 rows.
    by_vllm = generation_seconds(setting(), replace(WORK, is_paged=True), GPU)
    assert by_vllm == pytest.approx(20 * (moved / 50 + 1.6) + prompts)
    assert generation_seconds(setting(), replace(WORK, completions=0), GPU) == 0


def test_a_processor_also_computes_while_it_decodes():
    moved = 4 * PARAMETERS + 6 * 15 * 64
    computed = 2 * PARAMETERS * 6
    step = (moved / 100 + computed / 1000) / 0.5 + 1.0
    prompts = 2 * PARAMETERS * 3 * 10 / 1000
    found = generation_seconds(setting(Training(), is_cpu=True), WORK, CPU)
    assert found == pytest.approx(20 * step + prompts)


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
    # On a processor the host is the device.
    host = Optimizer(kind="adamw_cpu", lr=1e-6)
    assert update_seconds(setting(optimizer=host), CPU) == update_seconds(known, CPU)


def test_gpus_share_the_work_and_send_gradients_and_weights():
    one, four = (stage_seconds(setting(optimizer=ADAMW, num_gpus=n), WORK, GPU) for n in (1, 4))
    assert four.generate == pytest.approx(one.generate / 4)
    assert four.train == pytest.approx(one.train / 4)
    assert one.communicate == 0
    # 3/4 of (4 bytes of gradient + 2 of weight), at a byte a second, twice.
    assert communicated_bytes(setting(num_gpus=4)) == 0.75 * 6 * PARAMETERS
    assert four.communicate == pytest.approx(2 * 0.75 * 6 * PARAMETERS)
    adapter = setting(adapter=ADAPTER, num_gpus=2)
    assert communicated_bytes(adapter) == 0.5 * 6 * (2 * 4 * (8 + 8))


def test_cut_weights_are_sent_in_every_pass():
    """4 bytes of gradient and 2 of weight: layers twice, the rest once, then all whole."""
    layers = SHAPE.num_layers * SHAPE.layer_parameters
    a_pass = 2 * (2 * layers + SHAPE.embedding_parameters) + 4 * PARAMETERS
    cut = setting(optimizer=ADAMW, num_gpus=4, sharding="full")
    assert communicated_bytes(cut, 3) == 0.75 * (3 * a_pass + 2 * PARAMETERS)
    assert communicated_bytes(replace(cut, num_gpus=1), 3) == 0
    shared = replace(WORK, num_micro_batches=24, num_updates=2)
    assert passes_of_a_rank(shared, cut) == 3
    assert passes_of_a_rank(replace(shared, num_micro_batches=2), cut) == 1
    assert stage_seconds(cut, shared, GPU).communicate == 2 * communicated_bytes(cut, 3)


def test_what_is_around_the_steps_is_an_engine_s_start_and_models_on_their_way():
    """PARAMETERS of 2 bytes, read three times and kept twice at 1e-9 GB a second."""
    config = setting()
    assumed = replace(config.assumed, engine_start_seconds=7.0, model_gb_per_second=1e-9)
    config = replace(config, assumed=assumed)
    work = replace(WORK, num_models=3, kept_models=2)
    assert stage_seconds(config, work, GPU).around == pytest.approx(5 * 2 * PARAMETERS)
    by_vllm = stage_seconds(config, replace(work, is_paged=True), GPU)
    assert by_vllm.around == pytest.approx(7 + 5 * 2 * PARAMETERS)
    assert by_vllm.total == by_vllm.steps + by_vllm.around
