"""`vibelite plan`: without torch, in time, what it says of fitting, money and disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vibelite.cli import app
from vibelite.commands.plan import EXIT_DOES_NOT_FIT
from vibelite.errors import RecipeError
from vibelite.planning import devices
from vibelite.units import GIB

RECIPES = Path(__file__).parents[2] / "recipes"
QUICKSTART, BIG = RECIPES / "quickstart.yaml", RECIPES / "vibethinker_1p5b_1x80gb.yaml"
# The head, which has no setting, takes so much alone.
TOO_SMALL = ("--assume", "memory_gib=2")


def plan(*arguments):
    """On an h100-80gb where no --gpu follows."""
    result = CliRunner().invoke(app, ["plan", "--gpu", "h100-80gb", *map(str, arguments)])
    if isinstance(result.exception, RecipeError):
        raise result.exception
    return result.exit_code, result.output


def plan_json(*arguments):
    code, output = plan(*arguments, "--json")
    return code, json.loads(output)


def test_a_plan_needs_no_torch_and_less_than_two_seconds_of_a_processor():
    program = (
        "import sys, time, vibelite.cli as cli\n"
        f"sys.argv = ['vibelite', 'plan', {str(BIG)!r}, '--usd-per-gpu-hour', '2']\n"
        "try: cli.main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "print('seconds', time.process_time())\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.rpartition("seconds ")[2]) < 2


def test_parts_add_up_and_money_is_time_at_the_price():
    code, found = plan_json(QUICKSTART, "--usd-per-gpu-hour", 3.6, "--num-gpus", 2)
    assert code == 0 and found["fits"]
    for stage in found["stages"]:
        for phase in stage["phases"]:
            assert sum(phase["parts"].values()) == pytest.approx(phase["total"])
        assert stage["usd"] == pytest.approx(stage["seconds"]["total"] * 0.002)
    assert found["seconds"] == pytest.approx(
        sum(stage["seconds"]["total"] for stage in found["stages"])
    )
    assert found["usd"] == pytest.approx(found["seconds"] * 0.002)
    peaks = [phase["total"] for stage in found["stages"] for phase in stage["phases"]]
    assert found["peak_bytes"] == max(peaks)
    (mgpo,) = (stage for stage in found["stages"] if stage["stage"] == "mgpo")
    assert mgpo["seconds_per_step"] * 70 + mgpo["seconds"]["around"] == pytest.approx(
        mgpo["seconds"]["total"]
    )
    assert mgpo["seconds"]["communicate"] > 0


def test_an_engine_on_two_gpus_is_planned_with_half_its_weights_beside_the_trainers():
    sets = ("--set", "rollout.engine=vllm", "--set", "rollout.tensor_parallel=2")
    sets += ("--set", "num_gpus=2")
    _, found = plan_json(QUICKSTART, *sets)
    for stage in found["stages"]:
        for phase in stage["phases"]:
            engine = phase["parts"].get("engine", 0.0)
            generates = phase["phase"] == "generate"
            assert engine == (phase["parts"]["weights"] / 2 if generates else 0)
    with pytest.raises(RecipeError, match="tensor_parallel: 2 must divide the number of GPUs"):
        plan(QUICKSTART, *sets, "--num-gpus", 3)


def test_suggested_settings_make_it_fit():
    arguments = (BIG, "--gpu", "rtx4090-24gb", "--set", "training.activations=keep")
    code, found = plan_json(*arguments)
    assert code == EXIT_DOES_NOT_FIT and not found["fits"]
    assert found["suggestions"]
    sets = [word for item in found["suggestions"] for word in ("--set", item)]
    code, changed = plan_json(*arguments, *sets)
    assert code == 0 and changed["fits"]
    for left_out in range(0, len(sets), 2):
        fewer = sets[:left_out] + sets[left_out + 2 :]
        assert plan_json(*arguments, *fewer)[0] == EXIT_DOES_NOT_FIT, sets[left_out + 1]


def test_where_no_setting_helps_the_plan_says_so_and_names_a_gpu():
    code, output = plan(BIG, *TOO_SMALL)
    assert code == EXIT_DOES_NOT_FIT
    assert "no setting makes it fit" in output
    assert "the smallest listed GPU on which it fits" in output


def test_the_longest_response_fits_and_one_step_more_does_not():
    _, found = plan_json(BIG)
    (stage, tokens) = next(iter(found["longest_response"].items()))
    setting = f"stages.{stage}.sampling.max_new_tokens="

    def peak(length):
        _, at_length = plan_json(BIG, "--set", f"{setting}{length}")
        (one,) = (one for one in at_length["stages"] if one["stage"] == stage)
        return max(phase["total"] for phase in one["phases"])

    usable = found["usable_share"] * found["device"]["memory_bytes"]
    assert peak(tokens) <= usable < peak(tokens + 1024)


def test_the_smallest_gpu_is_one_on_which_it_fits():
    _, found = plan_json(BIG)
    assert plan(BIG, "--gpu", found["smallest_gpu"])[0] == 0


def test_numbers_of_the_gpu_and_assumptions_can_be_changed():
    _, before = plan_json(QUICKSTART)
    _, after = plan_json(
        QUICKSTART, "--assume", "memory_gib=7", "--assume", "context_gib=3", "--assume",
        "decode_step_seconds=0.004",
    )  # fmt: skip
    assert after["device"]["memory_bytes"] == 7 << 30
    more = (3 - before["assumptions"]["context_gib"]) * GIB
    assert after["peak_bytes"] == pytest.approx(before["peak_bytes"] + more)
    assert after["seconds"] > before["seconds"]
    assert after["assumptions"]["context_gib"] == 3


def test_traces_and_completions_have_lengths_of_their_own():
    def tokens(*arguments):
        _, found = plan_json(QUICKSTART, *arguments)
        return {stage["stage"]: stage["trained_tokens"] for stage in found["stages"]}

    before = tokens()
    assert before["sft"] == pytest.approx(360 * 48 * 0.5 * 512)
    assert before["mgpo"] == pytest.approx(70 * 32 * 8 * (200 + 0.5 * 80))
    traces = tokens("--assume", "trace_fraction=0.1")
    assert traces == before | {"sft": pytest.approx(360 * 48 * 0.1 * 512)}
    completions = tokens("--assume", "length_fraction=0.25")
    assert completions == before | {"mgpo": pytest.approx(70 * 32 * 8 * (200 + 0.25 * 80))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h100-80g"], "--gpu h100-80g: not listed.*h100-80gb"),
        (["--assume", "memory=3"], "--assume memory=3: no such name.*memory_gib"),
        (["--assume", "memory_gib=much"], "'much' is not a number"),
        (["--assume", "memory_gib=-1"], "must be a number above 0"),
        (["--assume", "promt_tokens=3"], "no such name.*prompt_tokens"),
        (["--gpu", "cpu", "--num-gpus", "2"], "a CPU is planned alone"),
    ],
)
def test_what_cannot_be_planned_is_one_message(arguments, message):
    with pytest.raises(RecipeError, match=message):
        plan(QUICKSTART, *arguments)


GPU_LINES = {
    "NVIDIA H100 80GB HBM3, 81559": ("h100-80gb", 81559),
    "NVIDIA A100-SXM4-40GB, 40960\nNVIDIA A100-SXM4-80GB, 81920": ("a100-40gb", 40960),
    "NVIDIA A100 80GB PCIe, 81920": ("a100-80gb", 81920),
    "NVIDIA A10G, 23028": ("a10-24gb", 23028),
    "NVIDIA GeForce RTX 4090, 24000": ("rtx4090-24gb", 24000),
    "NVIDIA RTX A6000, 49140": ("rtxa6000-48gb", 49140),
    "": ("cpu", None),
}


@pytest.mark.parametrize("line", GPU_LINES)
def test_without_a_gpu_the_recipes_is_planned_for_or_this_machines(line, monkeypatch):
    monkeypatch.setattr(devices, "_driver_says", lambda: line)

    def planned(recipe):
        result = CliRunner().invoke(app, ["plan", str(recipe), "--json"])
        return json.loads(result.stdout)["device"]

    name, mebibytes = GPU_LINES[line]
    device = planned(QUICKSTART)
    assert device["name"] == name
    assert mebibytes in (None, device["memory_bytes"] >> 20)
    assert planned(BIG)["name"] == "h100-80gb"


def test_a_gpu_that_is_not_listed_is_named_and_what_to_do(monkeypatch):
    monkeypatch.setattr(devices, "_driver_says", lambda: "Tesla T4, 15360")
    with pytest.raises(RecipeError, match="this machine's Tesla T4 is not listed.*memory_gib=15"):
        plan(QUICKSTART, "--gpu", "")
    with pytest.raises(RecipeError, match="cost.gpu h100: not listed; did you mean 'h100-80gb'"):
        plan(QUICKSTART, "--gpu", "", "--set", "cost.gpu=h100")


def test_a_processor_is_planned_at_its_own_rates():
    _, found = plan_json(QUICKSTART, "--gpu", "cpu")
    _, slower = plan_json(QUICKSTART, "--gpu", "cpu", "--assume", "flops=1e9")
    assert found["device"]["flops"] > 1e9
    assert slower["seconds"] > 2 * found["seconds"]


def test_disk_is_the_models_that_stay_and_the_states_that_pass():
    _, found = plan_json(QUICKSTART)
    (run,) = found["disk"]
    parameters = found["num_parameters"]
    kept = 1 + sum(stage["kept_models"] for stage in found["stages"])
    assert run["models"] == 4 * parameters * kept
    assert run["states"] > 0
    hub = plan_json(BIG)[1]["disk"]
    assert [need["place"] for need in hub] == ["run directory", "model cache"]
    assert hub[1]["models"] == 2 * plan_json(BIG)[1]["num_parameters"]


@pytest.mark.parametrize(
    ("cost", "usd_per_hour", "source"),
    [
        ("{usd_per_hour: 3, source: a list}", 3, "the recipe's cost.usd_per_hour: a list"),
        ("{usd_per_gpu_hour: 2.5}", 20, "the recipe's cost.usd_per_gpu_hour: no source"),
    ],
)
def test_the_recipe_prices_the_machine_or_each_gpu(cost, usd_per_hour, source):
    _, found = plan_json(QUICKSTART, "--set", f"cost={cost}", "--num-gpus", 8)
    assert (found["usd_per_hour"], found["price_source"]) == (usd_per_hour, source)


def test_without_a_price_there_is_no_money():
    _, found = plan_json(QUICKSTART, "--set", "cost.usd_per_hour=null")
    assert found["usd"] is None
    assert "none, so no $" in plan(QUICKSTART, "--set", "cost.usd_per_hour=null")[1]
