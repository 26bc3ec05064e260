"""Reading a run directory: which samples are shown, and texts that would do harm or not end."""

import re

from vibelite.report import run_data
from vibelite.report.run_data import choose_samples, facts_of, load_run
from vibelite.report.texts import SAMPLE_CHARACTERS, clip, printable


def rows(num_steps, subdomains=("a", "b"), per_kind=3):
    for step in range(1, num_steps + 1):
        for subdomain in subdomains:
            for index in range(2 * per_kind):
                yield {
                    "step": step,
                    "subdomain": subdomain,
                    "correct": index % 2 == 1,
                    "completion": f"{step}-{subdomain}-{index}",
                }


def test_each_step_shows_the_first_correct_and_wrong_sample_of_each_sub_domain():
    chosen, total = choose_samples(rows(num_steps=2))
    assert total == 24
    assert [row["completion"] for row in chosen] == [
        "1-a-0", "1-a-1", "1-b-0", "1-b-1", "2-a-0", "2-a-1", "2-b-0", "2-b-1",
    ]  # fmt: skip


def test_of_many_steps_evenly_spaced_ones_are_shown(monkeypatch):
    monkeypatch.setattr(run_data, "SAMPLES_PER_STAGE", 20)
    chosen, total = choose_samples(rows(num_steps=101))
    assert total == 101 * 12
    assert sorted({row["step"] for row in chosen}) == [1, 26, 51, 76, 101]
    assert len(chosen) == 20


def test_long_text_keeps_both_ends_and_says_what_is_missing():
    text = "<" + "x" * 10_000 + ">"
    clipped = clip(text)
    assert clipped.startswith("<x") and clipped.endswith("x>")
    assert f"[... {10_002 - SAMPLE_CHARACTERS} characters left out ...]" in clipped
    assert len(clipped) < SAMPLE_CHARACTERS + 60
    assert clip("short") == "short"


def test_unprintable_characters_become_their_codes():
    assert printable("\x1b[31m\x00\x9b\u202e\ud800") == "\\x1b[31m\\x00\\x9b\\u202e\\ud800"
    assert printable("line\n\ttab é 数 ≤") == "line\n\ttab é 数 ≤"


def test_stages_come_from_the_recipe_and_otherwise_from_the_directories(finished_run):
    path = finished_run.run.path
    names = ["sft", "probe", "fuse", "mgpo", "evaluate"]
    run = load_run(path, "trial")
    assert [stage.name for stage in run.stages] == names
    assert run.stages[3].total_steps == 40
    assert all(stage.is_finished for stage in run.stages)
    (path / "recipe.resolved.yaml").unlink()
    run = load_run(path, "trial")
    assert [stage.name for stage in run.stages] == names
    assert run.stages[3].total_steps is None
    assert run.recipe_text is None


def test_the_first_line_says_what_ran_where_and_for_how_much(nano_run):
    model, machine, day, seed = load_run(nano_run, "nano").facts
    assert re.fullmatch(r"a tiny model, [0-9.]+[kM]? parameters", model)
    assert machine and re.fullmatch(r"\d{4}-\d\d-\d\d", day) and seed == "seed 0"


def test_a_priced_run_on_gpus_says_so():
    manifest = {
        "resolved_recipe": {"model": {"source": "pretrained", "path": "Qwen/Qwen2.5-0.5B"}},
        "hardware": {"gpus": [{"name": "NVIDIA H200"}] * 2, "cpu": "x"},
        "cost": {"usd_per_hour": None, "usd_per_gpu_hour": 3.0},
    }
    assert facts_of(manifest) == [
        "Qwen2.5-0.5B", "2 x NVIDIA H200", "$3.00 an hour of a GPU"
    ]  # fmt: skip
    assert facts_of({}) == []
