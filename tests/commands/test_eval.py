"""`vibelite eval`, `probe` and `fuse` on model directories, through the command line."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.policies import tiny_policy
from vibelite import cli
from vibelite.commands.eval import evaluate_stage
from vibelite.errors import RecipeError
from vibelite.run_dir import read_jsonl

SAMPLING = ("--num-samples", "4", "--k", "2", "--max-new-tokens", "6", "--json")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model"
    tiny_policy(seed=1).save(path)
    return path


@pytest.fixture
def problems(tmp_path):
    """Two sub-domains with answers that no completion gives."""
    path = tmp_path / "problems.jsonl"
    rows = [
        {"question": f"What is {n} + 4?", "solution": "-1", "area": area}
        for n, area in enumerate(["sums", "sums", "other"])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run_json(monkeypatch, capsys):
    """Runs a command and parses the whole of its stdout."""

    def run(*arguments: str | Path) -> Any:
        monkeypatch.setattr(sys, "argv", ["vibelite", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        return json.loads(captured.out)

    return run


def test_the_mean_of_a_model_with_itself_gives_the_same_evaluation(
    model, problems, tmp_path, run_json
):
    fused = tmp_path / "fused"
    result = run_json("fuse", model, model, "--weights", "1,3", "-o", fused, "--json")
    assert [source["weight"] for source in result["sources"]] == [0.25, 0.75]
    columns = ("--columns", "prompt=question,answer=solution,subdomain=area")
    arguments = ("--bench", problems, *columns, "--verifier", "exact", *SAMPLING)
    before, after = (run_json("eval", path, *arguments) for path in (model, fused))
    assert before.pop("model") == str(model)
    assert after.pop("model") == str(fused)
    assert before.pop("out").startswith(f"{model}-eval/problems-")
    assert after.pop("out").startswith(f"{fused}-eval/problems-")
    assert before == after
    assert before["num_problems"] == 3
    assert before["pass_at_1"] == before["pass_at_k"]["2"] == 0
    assert {name: part["num_problems"] for name, part in before["subdomains"].items()} == {
        "sums": 2,
        "other": 1,
    }
    assert 0 < before["mean_tokens"] <= 6


def test_the_same_command_goes_on_where_it_was_killed(model, problems, tmp_path, run_json):
    """A real SIGKILL, as soon as some samples are there."""
    columns = ("--columns", "prompt=question,answer=solution")
    sampling = ("--num-samples", "40", "--max-new-tokens", "40")
    out = tmp_path / "out"
    arguments = ("eval", model, "--bench", problems, *columns, *sampling, "--out", out)
    process = subprocess.Popen([sys.executable, "-m", "vibelite", *map(str, arguments)])
    samples = out / "samples.jsonl"
    while process.poll() is None and not (samples.exists() and samples.stat().st_size > 0):
        time.sleep(0.001)
    process.kill()
    process.wait()
    before = list(read_jsonl(samples))
    assert 0 < len(before) < 120
    result = run_json(*arguments, "--json")
    after = list(read_jsonl(samples))
    assert len(after) == len({(row["problem_id"], row["sample"]) for row in after}) == 120
    assert all(row in after for row in before)
    undisturbed = run_json(*arguments[:-1], tmp_path / "undisturbed", "--json")
    assert list(read_jsonl(tmp_path / "undisturbed" / "samples.jsonl")) == after
    assert result.pop("out") != undisturbed.pop("out")
    assert result == undisturbed


def test_other_settings_in_the_same_directory_are_refused(
    model, problems, tmp_path, run_json, monkeypatch, capsys
):
    columns = ("--columns", "prompt=question,answer=solution")
    out = tmp_path / "out"
    arguments = ["eval", model, "--bench", problems, *columns, "--out", out, *SAMPLING]
    run_json(*arguments)
    wrong = ["vibelite", *map(str, arguments), "--temperature", "0.5"]
    monkeypatch.setattr(sys, "argv", wrong)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f"--out {out}: holds an evaluation with other settings (sampling was" in message
    assert message.endswith("name another directory\n")


def test_a_preset_brings_the_reports_sampling_and_the_command_line_wins():
    nothing: dict[str, float | None] = dict.fromkeys(("max_new_tokens", "temperature", "top_p"))
    stage = evaluate_stage("lcb-v6", num_samples=None, k=[], sampling=nothing)
    assert (stage.num_samples, stage.k, stage.sampling.temperature) == (8, [8], 0.6)
    assert (stage.sampling.top_p, stage.sampling.max_new_tokens) == (0.95, 40_960)
    stage = evaluate_stage("aime25", num_samples=4, k=[], sampling=nothing | {"temperature": 0.0})
    assert (stage.num_samples, stage.k, stage.sampling.temperature) == (4, [4], 0.0)
    stage = evaluate_stage("gcd", num_samples=None, k=[2], sampling=nothing)
    assert (stage.num_samples, stage.k, stage.sampling.top_p) == (8, [2], 1.0)
    with pytest.raises(RecipeError, match="--num-samples 4: must be at least --k 5"):
        evaluate_stage("gcd", num_samples=4, k=[5], sampling=nothing)


def test_a_file_of_a_benchmark_is_a_preset_with_published_scores(model, tmp_path, run_json):
    file = tmp_path / "mine.jsonl"
    rows = [{"problem": f"What is {n} + 4?", "answer": n + 4} for n in range(2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_json("eval", model, "--bench", "aime25", "--file", file, *SAMPLING)
    assert result["data"]["name"] == "AIME 2025"
    assert (result["data"]["num_problems"], result["data"]["official_num_problems"]) == (2, 30)
    assert result["data"]["from"] == "mine.jsonl"
    assert result["published"]["pass_at_1"]["VibeThinker-1.5B"] == 0.744
    assert result["sampling"]["top_p"] == 0.95
    assert result["cons_at_n"] == 0


def test_limit_takes_the_first_problems(model, problems, run_json):
    columns = ("--columns", "prompt=question,answer=solution")
    result = run_json("eval", model, "--bench", problems, *columns, "--limit", "2", *SAMPLING)
    assert result["num_problems"] == 2


def test_probe_samples_all_models_alike_and_resumes_and_a_tie_goes_to_the_last(
    model, tmp_path, run_json
):
    other = tmp_path / "other"
    tiny_policy(seed=1).save(other)
    arguments = ("probe", model, other, "--problems", "gcd", "--limit", "2", *SAMPLING)
    result = run_json(*arguments, "--out", tmp_path / "kept")
    first, second = result["models"]
    assert (first["model"], second["model"]) == (str(model), str(other))
    assert first["pass_at_k"] == second["pass_at_k"]
    assert result["specialists"] == {"gcd": str(other)}
    # Killed while it sampled the second model: one sample is missing there, none of the first.
    paths = [tmp_path / "kept" / name / "samples.jsonl" for name in ("1-model", "2-other")]
    whole = [path.read_bytes() for path in paths]
    paths[1].write_bytes(b"".join(whole[1].splitlines(keepends=True)[:-1]))
    before = paths[0].stat().st_mtime_ns
    assert run_json(*arguments, "--out", tmp_path / "kept") == result
    assert [path.read_bytes() for path in paths] == whole
    assert paths[0].stat().st_mtime_ns == before
    # What `eval` samples is the same.
    kept = run_json("eval", model, "--bench", "gcd", "--limit", "2", *SAMPLING)["out"]
    assert (Path(kept) / "samples.jsonl").read_bytes() == whole[0]
