"""`vibelite build-probe` on tables that name sub-domains."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vibelite import cli
from vibelite.data.sources import load_problems
from vibelite.recipe.data_section import ProblemTable
from vibelite.run_dir import read_jsonl

SUBJECTS = ["Algebra", "Prealgebra", "Geometry", "Precalculus", "Counting & Probability"]
NUMBERS = {"Algebra": 4, "Prealgebra": 3, "Geometry": 5, "Precalculus": 3}


@pytest.fixture
def run(monkeypatch, capsys):
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
def labelled(tmp_path):
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


def test_subjects_become_sub_domains_with_as_many_problems_each(labelled, tmp_path, run):
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
    assert json.loads((tmp_path / "probe.report.json").read_text()) == report


def test_the_seed_decides_and_the_order_of_the_rows_does_not(labelled, tmp_path, run):
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


def test_evaluation_problems_stay_out_and_the_report_has_their_text(labelled, tmp_path, run):
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
    assert repeat["id"] == "table/0" and "a train covers many kilometers" in repeat["text"]
    assert "table/0" not in {row["id"] for row in read_jsonl(out)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--subdomains", "Algebr=algebra"), "no row is of the sub-domain algebra; the column"),
        (("--columns", "prompt=problem"), "--columns: name the column of the sub-domain"),
        (("--against", "aime27"), "--against aime27: no such file or benchmark; did you mean"),
        (("-o", "probe.json"), "--output probe.json: must end in .jsonl"),
    ],
)
def test_wrong_input_is_one_message(labelled, tmp_path, run, arguments, message):
    err = run(labelled, "-o", tmp_path / "probe.jsonl", *COLUMNS, *arguments, code=2)
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "probe.jsonl").exists()
