"""Peak memory of phases: by hand, monotone in what a user can change, and against a GPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vibelite.kernels import chunked
from vibelite.planning import activation_memory as planned
from vibelite.planning.memory_model import (
    StageConfig,
    adapter_parameters,
    chosen_sharding,
    model_bytes,
    stage_memory,
    training_moments,
)
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.workload import Assumptions, Work
from vibelite.recipe.load import load_recipe
from vibelite.recipe.model_section import Adapter, Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.units import GIB

QWEN25_1_5B = ModelShape(28, 1536, 8960, 12, 2, 128, 151936, True)
QWEN_PARAMETERS = 1_543_569_408
# 2 layers, H 8, MLP 16, 2 heads of 4 on 1, V 32: a layer 2 x 8 x (8 + 4) + 3 x 8 x 16 = 576.
SMALL = ModelShape(2, 8, 16, 2, 1, 4, 32, True)
SMALL_PARAMETERS = 2 * 576 + 256
RANKS = Path(__file__).parents[1] / "distributed" / "ranks.yaml"
LORA = "adapter={kind: lora}"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
ADAMW = Optimizer(kind="adamw", lr=1e-6)
BFLOAT16 = Training(dtype="bfloat16")


def setting(shape=SMALL, training=BFLOAT16, **values):
    return StageConfig(shape, training, Assumptions(prompt_tokens=100.0), **values)


def work(**values):
    known = {
        "rows": 6, "prompts_at_once": 2, "prompts": 2.0, "completions": 6.0, "max_new_tokens": 50,
        "micro_batch_tokens": 600, "num_steps": 1,
    }  # fmt: skip
    return Work("mgpo", "mgpo", **(known | values))


def test_sampling_holds_weights_state_cache_with_its_room_and_the_sampler():
    (generate, _) = stage_memory(setting(optimizer=ADAMW), work())
    # Room for 164 tokens behind 100 is enough for 150; keys and values of 2 layers, 4 numbers each.
    assert generate.parts == {
        "weights": 2 * SMALL_PARAMETERS,
        "optimizer": (4 + 8) * SMALL_PARAMETERS,
        "kv_cache": 6 * 164 * (2 * 2 * 4 * 2),
        "sampling": 6 * 32 * (2 + 4 + 8),
        "context": 0.75 * GIB,
    }
    assert (generate.moment, generate.host) == ("sampling", 0)


def test_the_cache_grows_by_half_and_on_a_processor_counts_what_is_written():
    (generate,) = stage_memory(setting(), work(max_new_tokens=100))
    assert generate.parts["kv_cache"] == 6 * 164 * 1.5 * 32
    (on_cpu,) = stage_memory(setting(is_cpu=True), work(max_new_tokens=100))
    assert on_cpu.parts["kv_cache"] == 6 * 200 * 32


def test_an_engine_of_its_own_holds_weights_beside_the_trainers_and_sleeps_on_a_gpu():
    held = 2 * SMALL_PARAMETERS / 2
    known = setting(optimizer=ADAMW, tensor_parallel=2, engine_weights=held)
    generate, train = stage_memory(known, work())
    assert generate.parts["engine"] == held
    assert "engine" not in train.parts and not train.host
    # One head of keys, which both GPUs hold.
    assert generate.parts["kv_cache"] == 6 * 164 * 32
    _, train = stage_memory(setting(optimizer=ADAMW, engine_weights=held, is_cpu=True), work())
    assert train.parts["engine"] == held
    (alone,) = stage_memory(known, work(completions=0.0))
    assert "engine" not in alone.parts and not alone.host  # no sampling, no engine


def test_gpus_that_hold_an_engine_together_share_its_heads():
    shape = replace(SMALL, num_heads=4, num_kv_heads=2)
    one, two = (stage_memory(setting(shape, tensor_parallel=n), work())[0] for n in (1, 2))
    assert one.parts["kv_cache"] == 2 * two.parts["kv_cache"] == 6 * 164 * 64


def test_a_reference_doubles_the_weights_alone():
    one, two = (
        model_bytes(setting(optimizer=ADAMW), work(holds_reference=reference))
        for reference in (False, True)
    )
    assert two == replace(one, weights=2 * one.weights)


def test_several_gpus_share_masters_and_moments():
    one, four = (model_bytes(setting(optimizer=ADAMW, num_gpus=n), work()) for n in (1, 4))
    assert (four.weights, four.gradients) == (one.weights, one.gradients)
    assert one.optimizer == 12 * SMALL_PARAMETERS == 4 * four.optimizer


def test_full_sharding_cuts_all_that_is_trained_and_gathers_some_layers():
    known = setting(optimizer=ADAMW, num_gpus=4, sharding="full")
    found = model_bytes(known, work())
    pieces = 4 * SMALL_PARAMETERS / 4
    assert (found.gradients, found.optimizer) == (pieces, 3 * pieces)
    assert found.weights == 2 * SMALL_PARAMETERS
    assert found.training_weights == 2 * (256 + 3 * 576)
    (train,) = stage_memory(known, work(completions=0))
    assert train.parts["weights"] == found.training_weights
    (with_reference,) = stage_memory(known, work(completions=0, holds_reference=True))
    assert with_reference.parts["weights"] - train.parts["weights"] == 2 * SMALL_PARAMETERS


def test_muon_keeps_two_moments_of_the_embedding_and_one_of_the_layers():
    muon = Optimizer(kind="muon", lr=1e-3)
    found = model_bytes(setting(training=Training(), optimizer=muon), work())
    assert found.optimizer == 4 * 2 * 576 + 8 * 256


def test_the_hosts_adamw_leaves_one_gradient_on_the_device():
    host = Optimizer(kind="adamw_cpu", lr=1e-6)
    found = model_bytes(setting(QWEN25_1_5B, optimizer=host), work())
    assert found.optimizer == 0
    assert found.gradients == 2 * 151936 * 1536
    assert found.host == 16 * QWEN_PARAMETERS + 8 * 2**25


def test_on_a_processor_adamw_cpu_costs_what_adamw_does():
    totals = []
    for kind in ("adamw", "adamw_cpu"):
        optimizer = Optimizer(kind=kind, lr=1e-6)
        found = model_bytes(setting(training=Training(), optimizer=optimizer, is_cpu=True), work())
        totals.append(found.weights + found.gradients + found.optimizer + found.host)
    assert totals == [16 * SMALL_PARAMETERS] * 2


def test_an_adapter_is_rank_times_both_widths_and_the_rest_is_frozen():
    adapter = Adapter(kind="lora", rank=4, targets=["q_proj", "v_proj", "down_proj"])
    # Per layer 4 x ((8 + 8) + (8 + 4) + (16 + 8)).
    assert adapter_parameters(SMALL, adapter) == 2 * 4 * 52
    found = model_bytes(setting(adapter=adapter, optimizer=ADAMW), work())
    assert found.weights == 2 * (SMALL_PARAMETERS + 416)
    assert (found.gradients, found.optimizer) == (4 * 416, 12 * 416)


def test_four_bits_hold_the_layers_and_not_the_embedding():
    adapter = Adapter(kind="qlora", rank=32)
    found = model_bytes(setting(QWEN25_1_5B, adapter=adapter, optimizer=ADAMW), work())
    frozen = 1_310_195_712 * 4.127 / 8 + 2 * 151936 * 1536
    # Rank x, per layer: q, o 2 x 3072; k, v 2 x 1792; three of the MLP 10496 each.
    assert found.weights == pytest.approx(frozen + 2 * 32 * 28 * 41216)


def test_a_frozen_head_needs_no_gradient_of_its_weight():
    adapter = Adapter(kind="lora", rank=4)
    small, whole = (
        stage_memory(setting(QWEN25_1_5B, adapter=one, optimizer=ADAMW), work())[1]
        for one in (adapter, None)
    )
    assert whole.parts["head"] - small.parts["head"] >= 2 * 151936 * 1536


def test_gradients_are_there_before_the_second_micro_batch_only():
    for accumulates in (False, True):
        moments = training_moments(
            setting(optimizer=ADAMW),
            work(accumulates=accumulates),
            model_bytes(setting(optimizer=ADAMW), work()),
        )
        expected = 4 * SMALL_PARAMETERS if accumulates else 0
        assert moments["head"]["gradients"] == moments["backward"]["gradients"] == expected
        assert moments["last gradient"]["gradients"] == 4 * SMALL_PARAMETERS


def test_offloaded_inputs_are_on_the_host_of_a_gpu_and_count_on_a_processor():
    training = Training(dtype="bfloat16", activations="checkpoint_offload")
    (_, train) = stage_memory(setting(training=training, optimizer=ADAMW), work())
    assert train.host == 2 * 600 * 2 * 8
    assert "host" not in train.parts
    (_, on_cpu) = stage_memory(setting(training=training, optimizer=ADAMW, is_cpu=True), work())
    assert (on_cpu.host, on_cpu.parts["host"]) == (0, 2 * 600 * 2 * 8)


@pytest.mark.parametrize("is_cpu", [False, True])
@pytest.mark.parametrize("activations", ["keep", "checkpoint", "checkpoint_offload"])
def test_memory_never_falls_with_tokens_or_rows(activations, is_cpu):
    training = Training(activations=activations)
    known = setting(QWEN25_1_5B, training, optimizer=ADAMW, is_cpu=is_cpu)
    before = [0.0, 0.0]
    for size in (1, 2, 3, 5, 8, 64, 1000, 4096):
        more = work(rows=size, max_new_tokens=4 * size, micro_batch_tokens=16 * size)
        found = [phase.total for phase in stage_memory(known, more)]
        assert all(new >= old for new, old in zip(found, before, strict=True))
        before = found
    assert before[0] > 100 * GIB and before[1] > 25 * GIB


def test_the_heads_numbers_are_those_of_the_kernels():
    assert (chunked.ROW_ELEMENTS["cpu"], chunked.BLOCK_ELEMENTS["cpu"]) == planned.CPU_LOGITS
    assert (chunked.ROW_ELEMENTS["cuda"], chunked.BLOCK_ELEMENTS["cuda"]) == planned.GPU_LOGITS
    source = (Path(chunked.__file__).parent / "triton_head.py").read_text()
    store = f"\nSTORE_BYTES = {planned.STORE_BYTES >> 29} << 29\n"
    assert store in source


def test_training_is_within_ten_percent_of_what_an_h100_allocated():
    """benchmarks/gpu_activations.py: every token trained, gradients in bfloat16 there before, no
    optimizer."""
    rows = json.loads((RESULTS / "gpu_activations.json").read_text())["rows"]
    measured = [row for row in rows if "peak_bytes" in row]
    assert len(measured) >= 18
    for row in measured:
        training = Training(
            dtype="bfloat16", gradient_dtype="bfloat16", activations=row["activations"],
            mlp_tile_tokens=row["mlp_tile_tokens"],
        )  # fmt: skip
        known = setting(QWEN25_1_5B, training, optimizer=ADAMW)
        many = work(micro_batch_tokens=row["tokens"], accumulates=True)
        model = replace(model_bytes(known, many), optimizer=0.0)
        moments = training_moments(known, many, model)
        predicted = max(
            sum(moments[name].values()) - moments[name]["host"] for name in ("head", "backward")
        )
        assert predicted == pytest.approx(row["peak_bytes"], rel=0.1), row


def test_an_mgpo_update_is_within_eleven_percent_of_what_an_h100_allocated():
    """benchmarks/gpu_mgpo.py; one completion in one micro-batch, state of the optimizer there."""
    rows = json.loads((RESULTS / "gpu_mgpo.json").read_text())["rows"]
    measured = [row for row in rows if "allocated_bytes" in row]
    assert len(measured) >= 15
    for row in measured:
        names = ("dtype", "gradient_dtype", "activations", "mlp_tile_tokens")
        training = Training.model_validate({name: row[name] for name in names})
        optimizer = Optimizer.model_validate({"kind": row["optimizer"], "lr": 1e-6})
        known = setting(QWEN25_1_5B, training, optimizer=optimizer)
        one = work(micro_batch_tokens=row["tokens"], max_new_tokens=row["tokens"])
        moments = training_moments(known, one, model_bytes(known, one))
        predicted = max(sum(parts.values()) - parts.get("host", 0.0) for parts in moments.values())
        assert predicted == pytest.approx(row["allocated_bytes"], rel=0.11), row


@pytest.mark.parametrize(
    ("num_parameters", "num_gpus", "memory_gib", "settings", "expected"),
    [
        (1.5e9, 8, 24, ["training.dtype=bfloat16"], "optimizer"),
        (3.1e9, 8, 24, ["training.dtype=bfloat16"], "full"),
        (3.1e9, 8, 80, ["training.dtype=bfloat16"], "optimizer"),
        (7.6e9, 8, 80, ["training.dtype=bfloat16"], "full"),
        (7.6e9, 8, 80, ["training={dtype: bfloat16, gradient_dtype: bfloat16}"], "optimizer"),
        (7.6e9, 8, 80, ["training.dtype=bfloat16", LORA], "optimizer"),
        (7.6e9, 1, 80, ["parallel.sharding=full"], "optimizer"),
        (7.6e9, 8, None, [], "optimizer"),
        (1e6, 2, None, ["parallel.sharding=full"], "full"),
        (7.6e9, 8, 80, ["parallel.sharding=optimizer"], "optimizer"),
    ],
)
def test_weights_are_cut_where_they_would_fill_a_gpu(
    num_parameters, num_gpus, memory_gib, settings, expected
):
    recipe = load_recipe(RANKS, settings)
    memory = None if memory_gib is None else memory_gib * GIB
    chosen = chosen_sharding(recipe, int(num_parameters), num_gpus=num_gpus, memory_bytes=memory)
    assert chosen == expected
