"""`vibelite build-probe` on labelled tables, and with a model whose votes are scripted."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.policies import tiny_policy
from tests.scripted_model import Killed, ScriptedModel
from vibelite import cli
from vibelite.data.sources import load_problems
from vibelite.recipe.data_section import ProblemTable
from vibelite.run_dir import read_jsonl

SUBJECTS = ["Algebra", "Prealgebra", "Geometry", "Precalculus", "Counting & Probability"]
NUMBERS = {"Algebra": 4, "Prealgebra": 3, "Geometry": 5, "Precalculus": 3}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command: its JSON, or its message where it fails as on wrong input."""

    def run_command(*arguments: Any, code: int = 0) -> Any:
        given = ["vibelite", "build-probe", *map(str, arguments), *["--json"] * (code == 0)]
        monkeypatch.setattr(sys, "argv", given)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert ended.value.code == code, captured.err
        return json.loads(captured.out) if code == 0 else captured.err

    return run_command


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Rows as MATH has them; those of number theory belong to none of the four."""
    rows = [
        {"problem": f"{subject}: what is {n} + {n}?", "answer": f"{2 * n}", "type": subject}
        for subject in [*SUBJECTS, "Number Theory"]
        for n in range(NUMBERS.get(subject, 6))
    ]
    rows.append(rows[0] | {"problem": "ALGEBRA - what is 0+0?"})
    return write(tmp_path / "math.jsonl", rows)


COLUMNS = ("--columns", "prompt=problem,answer=answer,subdomain=type")


def problems_of(path: Path) -> list[Any]:
    source = {
        "source": "file",
        "path": str(path),
        "columns": {"subdomain": "subdomain", "id": "id"},
    }
    return load_problems(ProblemTable.model_validate(source), recipe_dir=path.parent, seed=0)


def test_subjects_become_sub_domains_with_as_many_problems_each(
    labelled: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    out = tmp_path / "probe.jsonl"
    report = run(labelled, "-o", out, *COLUMNS, "--subdomains", "math")
    assert report["subdomains"] == dict.fromkeys(
        ["algebra", "geometry", "calculus", "statistics"], 3
    )
    # 28 rows: 6 of number theory, one repeated, and 21 of which three of each of four stay.
    assert report["num_candidates"] == 28
    dropped = {"another sub-domain": 6, "repeated": 1, "beyond the number of each": 9}
    assert report["dropped"] == dropped
    problems = problems_of(out)
    assert len(problems) == report["num_problems"] == 12
    assert {p.subdomain for p in problems} == set(report["subdomains"])
    assert all(p.messages[0]["content"].endswith("?") and p.verifier == "math" for p in problems)
    text = (tmp_path / "probe.md").read_text()
    assert all(f"## {name} (3)" in text for name in report["subdomains"])
    assert all(problem.id in text for problem in problems)
    assert json.loads((tmp_path / "probe.report.json").read_text()) == report


def test_the_seed_decides_and_the_order_of_the_rows_does_not(
    labelled: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    rows = [{**row, "key": str(n)} for n, row in enumerate(read_jsonl(labelled))]
    first = write(tmp_path / "first.jsonl", rows)
    second = write(tmp_path / "second.jsonl", rows[::-1])
    columns = ("--columns", "prompt=problem,subdomain=type,id=key", "--subdomains", "math")

    def ids(table: Path, seed: int) -> list[str]:
        run(table, "-o", tmp_path / "probe.jsonl", *columns, "--per-subdomain", 2, "--seed", seed)
        return [row["id"] for row in read_jsonl(tmp_path / "probe.jsonl")]

    assert ids(first, 0) == ids(first, 0) == ids(second, 0)
    assert len(ids(first, 0)) == 8
    assert ids(first, 1) != ids(first, 0)


def test_evaluation_problems_stay_out_and_the_report_has_their_text(
    labelled: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    long = "A train covers many kilometers in a few minutes and then waits at every station."
    rows = [
        {"problem": f"{long} How far?", "answer": "1", "type": "Geometry"},
        *read_jsonl(labelled),
    ]
    table = write(tmp_path / "table.jsonl", rows)
    exam = write(tmp_path / "exam.jsonl", [{"problem": f"{long.upper()} When?", "answer": "2"}])
    out = tmp_path / "probe.jsonl"
    report = run(table, "-o", out, *COLUMNS, "--subdomains", "math", "--against", exam)
    assert report["dropped"]["an evaluation problem"] == 1
    (repeat,) = report["repeats"]
    assert repeat["id"] == "table/0" and "waits at every station" in repeat["text"]
    assert "table/0" not in {row["id"] for row in read_jsonl(out)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--subdomains", "Algebr=algebra"), "no row is of the sub-domain algebra; the column"),
        (("--model", "nowhere"), "name either --columns subdomain=COLUMN or a --model"),
        (("--columns", "prompt=problem", "--model", "nowhere"), "nowhere: no such model directory"),
        (("--columns", "prompt=problem"), "name either --columns subdomain=COLUMN or a --model"),
        (("--against", "aime26"), "--against aime26: no such file or benchmark; did you mean"),
        (("-o", "probe.json"), "--output probe.json: must end in .jsonl"),
    ],
)
def test_wrong_input_is_one_message(
    labelled: Path,
    tmp_path: Path,
    run: Callable[..., Any],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    err = run(labelled, "-o", tmp_path / "probe.jsonl", *COLUMNS, *arguments, code=2)
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "probe.jsonl").exists()


def test_samples_that_name_nothing_are_no_majority(
    labelled: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """A real engine: the tiny model's completions have no box."""
    tiny_policy(seed=1).save(tmp_path / "model")
    votes = ("--model", tmp_path / "model", "--label-samples", "2", "--max-new-tokens", "6")
    columns = ("--columns", "prompt=problem")
    err = run(labelled, "-o", tmp_path / "probe.jsonl", *columns, *votes, code=2)
    assert "nothing is left of the sub-domain 'algebra'; dropped: " in err
    assert "'no clear sub-domain': 27" in err
    assert len(list(read_jsonl(tmp_path / "probe.votes" / "labels.jsonl"))) == 27 * 2


# What the scripted model says of the field of each question.
SCRIPT = {
    "alpha": ["algebra", "Algebra", "\\text{algebra}", "geometry", ""],
    "beta": ["algebra", "geometry", "algebra", "geometry", "topology"],
    "gamma": ["geometry"] * 5,
    "delta": ["geometry"] * 4 + ["algebra"],
    "epsilon": ["algebra"] * 5,
}


def reply(question: str, sample: int) -> str:
    (name,) = [name for name in SCRIPT if name in question]
    said = SCRIPT[name][sample]
    return f"So \\boxed{{{said}}}" if said else "No idea."


@pytest.fixture
def voter(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    model = ScriptedModel(reply)
    model.play(monkeypatch)
    return model


@pytest.fixture
def voting(tmp_path: Path) -> list[str]:
    tiny_policy(seed=1).save(tmp_path / "model")
    rows = [{"prompt": f"Do {name}.", "answer": "4"} for name in SCRIPT]
    write(tmp_path / "questions.jsonl", rows)
    return [str(tmp_path / "questions.jsonl"), "-o", str(tmp_path / "probe.jsonl"),
            "--model", str(tmp_path / "model"), "--subdomains", "algebra,geometry"]  # fmt: skip


def test_majorities_decide_on_sub_domains(
    voter: ScriptedModel, voting: list[str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    report = run(*voting, "--min-agreement", "0.4")
    # beta: two fields share the first place, with 0.4 of the votes each.
    assert report["dropped"] == {"no clear sub-domain": 1}
    assert report["subdomains"] == {"algebra": 2, "geometry": 2}
    rows = {row["prompt"][0]["content"]: row for row in read_jsonl(tmp_path / "probe.jsonl")}
    found = {name: rows[f"Do {name}."] for name in ("alpha", "gamma", "delta", "epsilon")}
    votes = {name: (row["label_votes"], row["label_agreement"]) for name, row in found.items()}
    assert votes == {
        "alpha": ({"algebra": 3, "geometry": 1}, 0.6),
        "gamma": ({"geometry": 5}, 1.0),
        "delta": ({"geometry": 4, "algebra": 1}, 0.8),
        "epsilon": ({"algebra": 5}, 1.0),
    }
    assert {row["answer"] for row in rows.values()} == {"4"}
    assert len(problems_of(tmp_path / "probe.jsonl")) == 4
    # The least sure come first in the list.
    text = (tmp_path / "probe.md").read_text()
    assert "| 4 | algebra: 3, geometry: 1, none: 1 |" in text
    assert text.index("Do alpha.") < text.index("Do epsilon.")
    assert text.index("Do delta.") < text.index("Do gamma.")


def test_a_majority_that_is_too_small_does_not_count(
    voter: ScriptedModel, voting: list[str], run: Callable[..., Any]
) -> None:
    report = run(*voting, "--min-agreement", "0.7")
    assert report["dropped"] == {"no clear sub-domain": 2, "beyond the number of each": 1}


@pytest.mark.parametrize("kill_after", [3, 24])
def test_a_killed_vote_asks_only_what_is_missing_and_ends_the_same(
    voter: ScriptedModel,
    voting: list[str],
    tmp_path: Path,
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    kill_after: int,
) -> None:
    voter.kill_after = kill_after
    monkeypatch.setattr(sys, "argv", ["vibelite", "build-probe", *voting])
    with pytest.raises(Killed):
        cli.main()
    assert not (tmp_path / "probe.jsonl").exists()
    voter.kill_after = None
    report = run(*voting)
    assert voter.asked == 5 * 5
    resumed = (tmp_path / "probe.jsonl").read_bytes()
    other = tmp_path / "other.jsonl"
    assert run(voting[0], "-o", other, *voting[3:])["dropped"] == report["dropped"]
    assert other.read_bytes() == resumed


def test_votes_with_other_settings_are_refused(
    voter: ScriptedModel, voting: list[str], run: Callable[..., Any]
) -> None:
    run(*voting)
    err = run(*voting, "--label-samples", "3", code=2)
    assert "probe.votes: holds votes with other settings (label_samples was 5, now 3)" in err
    before = voter.asked
    run(*voting, "--min-agreement", "0.4")
    assert voter.asked == before, "what counts as a majority needs no new votes"
