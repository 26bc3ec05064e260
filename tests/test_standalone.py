"""`vibelite eval`, `probe` and `fuse` on model directories, through the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.policies import tiny_policy
from vibelite import cli

SAMPLING = ("--num-samples", "4", "--k", "2", "--max-new-tokens", "6", "--json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    tiny_policy(seed=1).save(path)
    return path


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Two sub-domains with answers that no completion gives."""
    path = tmp_path / "problems.jsonl"
    rows = [
        {"question": f"What is {n} + 4?", "solution": "-1", "area": area}
        for n, area in enumerate(["sums", "sums", "other"])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
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
    model: Path, problems: Path, tmp_path: Path, run_json: Any
) -> None:
    fused = tmp_path / "fused"
    result = run_json("fuse", model, model, "--weights", "1,3", "-o", fused, "--json")
    assert [source["weight"] for source in result["sources"]] == [0.25, 0.75]
    columns = ("--columns", "prompt=question,answer=solution,subdomain=area")
    arguments = ("--bench", problems, *columns, "--verifier", "exact", *SAMPLING)
    before, after = (run_json("eval", path, *arguments) for path in (model, fused))
    assert before.pop("model") == str(model)
    assert after.pop("model") == str(fused)
    assert before == after
    assert before["num_problems"] == 3
    assert before["pass_at_1"] == before["pass_at_k"]["2"] == 0
    assert {name: part["num_problems"] for name, part in before["subdomains"].items()} == {
        "sums": 2,
        "other": 1,
    }
    assert 0 < before["mean_tokens"] <= 6


def test_limit_takes_the_first_problems(model: Path, problems: Path, run_json: Any) -> None:
    columns = ("--columns", "prompt=question,answer=solution")
    result = run_json("eval", model, "--bench", problems, *columns, "--limit", "2", *SAMPLING)
    assert result["num_problems"] == 2


def test_probe_samples_all_models_alike_and_a_tie_goes_to_the_last(
    model: Path, tmp_path: Path, run_json: Any
) -> None:
    other = tmp_path / "other"
    tiny_policy(seed=1).save(other)
    result = run_json("probe", model, other, "--problems", "gcd", "--limit", "2", *SAMPLING)
    first, second = result["models"]
    assert (first["model"], second["model"]) == (str(model), str(other))
    assert first["pass_at_k"] == second["pass_at_k"]
    assert result["specialists"] == {"gcd": str(other)}
