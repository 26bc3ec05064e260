"""Files through the cleaner and the command: what stays is unchanged, what goes is explained."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from tests.benchmark_files import NUM_PROBLEMS, benchmark_file, needs_benchmark_files
from vibelite import cli
from vibelite.data.decontaminate import Cleaner
from vibelite.errors import DataError
from vibelite.tools.decontaminate import clean_file, read_items, texts_in

EXAM = "Two runners start at opposite ends of a straight track of 400 meters; when do they meet?"
LOOP = "so we try the next number and see that it does not work either because " * 12


@pytest.fixture
def exam(tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"id": "runners", "question": EXAM, "answer": "never"}) + "\n")
    return path


def cleaner(exam: Path, max_repetition: float = 1.0) -> Cleaner:
    return Cleaner(read_items(exam), max_repetition)


def test_lines_that_stay_are_copied_byte_for_byte(tmp_path, exam):
    lines = [
        '{"prompt":   "caf\\u00e9", "n": 1.50}\n',
        json.dumps({"prompt": EXAM.upper()}) + "\n",
        "\n",
        '{"prompt": "last"}',
    ]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    judge = cleaner(exam)
    clean_file(tmp_path / "train.jsonl", tmp_path / "out" / "clean.jsonl", judge)
    assert (tmp_path / "out" / "clean.jsonl").read_text() == lines[0] + lines[3] + "\n"
    (dropped,) = judge.dropped
    assert (dropped["row"], dropped["id"], dropped["item"]) == (1, "train/1", "runners")
    assert judge.counts()["num_kept"] == 2


def test_parquet_keeps_its_types_and_order(tmp_path, exam):
    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    schema = pyarrow.schema(
        [("prompt", pyarrow.list_(message)), ("level", pyarrow.int8()), ("id", pyarrow.int64())]
    )
    rows = [
        {"prompt": [{"role": "user", "content": text}], "level": n % 100, "id": 10 + n}
        for n, text in enumerate(["first", EXAM, "third"] * 3000)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), tmp_path / "train.parquet")
    judge = cleaner(exam)
    clean_file(tmp_path / "train.parquet", tmp_path / "clean.parquet", judge)
    table = parquet.read_table(tmp_path / "clean.parquet")
    assert table.schema.equals(schema)
    assert table.to_pylist() == [row for row in rows if row["prompt"][0]["content"] != EXAM]
    assert len(judge.dropped) == 3000
    assert judge.dropped[0]["id"] == "11"


def test_answers_are_looked_through_and_loops_in_them_dropped(tmp_path, exam):
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": LOOP}, {"role": "assistant", "content": "ok"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": LOOP}]},
        {"question": "q", "solution": f"As in the exam: {EXAM}"},
        {"question": "q", "response": LOOP},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = cleaner(exam, max_repetition=0.5)
    clean_file(tmp_path / "train.jsonl", tmp_path / "clean.jsonl", judge)
    reasons = [(row["row"], row["rule"]) for row in judge.dropped]
    assert reasons == [(1, "repetition"), (2, "ngram"), (3, "repetition")]
    assert judge.dropped[0]["repeated_share"] > 0.8


def test_a_file_against_itself_keeps_nothing_and_says_how_many_items_are_short(tmp_path, capsys):
    """Short questions in one frame, and some of two turns."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"Give one number and no words. What is {n} + {n}?", "answer": str(2 * n)}
        for n in range(40)
    ]
    rows += [
        {"prompt": [{"role": "user", "content": f"{n}?"}, {"role": "user", "content": "Again!"}]}
        for n in range(20)
    ]
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = cleaner(source)
    clean_file(source, tmp_path / "none.jsonl", judge)
    assert judge.counts()["num_kept"] == 0
    (tmp_path / "train.jsonl").write_text('{"prompt": "Give one number and no words. 7?"}\n')
    arguments = [str(tmp_path / "train.jsonl"), "--against", str(source)]
    CliRunner().invoke(cli.app, ["decontaminate", *arguments, "-o", str(tmp_path / "clean.jsonl")])
    report = json.loads((tmp_path / "clean.jsonl.report.json").read_text())
    assert report["num_kept"] == 1
    assert report["against"][0]["num_short"] == 60


def test_only_the_named_columns_are_looked_at(tmp_path, exam):
    rows = [{"a": {"b": EXAM}, "c": ""}, {"a": {"b": ""}, "c": EXAM}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = cleaner(exam)
    clean_file(tmp_path / "train.jsonl", tmp_path / "clean.jsonl", judge, ["a.b"])
    assert [row["row"] for row in judge.dropped] == [0]


def test_texts_are_found_wherever_they_are_and_system_messages_are_not_asked():
    row = {
        "a": ["x", {"deep": "y"}],
        "n": 3,
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "assistant", "content": "z"},
        ],
    }
    assert [(text.content, text.is_answer) for text in texts_in(row)] == [
        ("x", False),
        ("y", False),
        ("z", True),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.jsonl", '{"prompt": 1}\n{"prompt"\n', r"bad.jsonl:2: not valid JSON"),
        ("bad.jsonl", "[1]\n", r"bad.jsonl:1: expected an object, found list"),
        ("bad.parquet", "text", "not a readable parquet file"),
        ("bad.csv", "a,b", r"must end in .jsonl or .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_leaves_nothing(
    name, text, message, tmp_path, exam
):
    (tmp_path / name).write_text(text)
    target = (tmp_path / "clean.jsonl").with_suffix(Path(name).suffix)
    with pytest.raises(DataError, match=message):
        clean_file(tmp_path / name, target, cleaner(exam))
    assert not target.exists()


def test_an_evaluation_file_without_a_known_question_names_its_columns(tmp_path):
    (tmp_path / "exam.jsonl").write_text('{"Frage": "Was?"}\n')
    with pytest.raises(DataError, match=r"exam.jsonl:1: none of the columns .*there are: Frage"):
        read_items(tmp_path / "exam.jsonl")
    (item,) = read_items(tmp_path / "exam.jsonl", "Frage")
    assert item.text == "Was?"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; exit code, stdout and stderr."""

    def call(*arguments: str | Path) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["vibelite", "decontaminate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.jsonl"
    texts = ["What is 2 times 3?", f"Once more: {EXAM.upper()}", "What is 3 times 4?"]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


def write_exam(path: Path, text: str) -> Path:
    path.write_text(json.dumps({"prompt": text}) + "\n")
    return path


def test_the_summary_is_one_json_object_and_the_report_has_every_reason(run, train, tmp_path):
    first = write_exam(tmp_path / "a.jsonl", "What is the sum of all primes that divide 2025?")
    second = write_exam(tmp_path / "b.jsonl", EXAM)
    output, report = tmp_path / "clean.jsonl", tmp_path / "why.json"
    # Both ways of naming several files.
    arguments = ("--against", first, second, "-o", output, "--report", report, "--json")
    code, out, err = run(train, *arguments)
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert (summary["num_rows"], summary["num_dropped"], summary["num_kept"]) == (3, 1, 2)
    assert summary["by_set"] == {str(second): 1}
    assert [item["num_items"] for item in summary["against"]] == [1, 1]
    (dropped,) = json.loads(report.read_text())["dropped"]
    assert (dropped["id"], dropped["item"]) == ("train/1", "b/0")
    assert dropped["text"].startswith("two runners start at opposite ends of")
    assert len(output.read_text().splitlines()) == 2


def test_the_plain_summary_names_what_went_and_where_the_report_is(run, train, tmp_path):
    exam = write_exam(tmp_path / "exam.jsonl", EXAM)
    code, out, _ = run(train, "--against", exam, "--output", tmp_path / "clean.jsonl")
    assert code == 0
    assert "train/1  ngram  exam/0  two runners start" in out
    assert "3 rows, 1 dropped (1 ngram), 2 kept" in out
    assert (tmp_path / "clean.jsonl.report.json").is_file()


def test_wrong_arguments_are_one_line_and_code_2(run, train, tmp_path):
    exam = write_exam(tmp_path / "exam.jsonl", EXAM)
    before = exam.read_text()
    code, _, err = run(train, "--against", exam, "-o", exam)
    assert code == 2
    assert err == f"--output {exam}: is one of the inputs; name another file\n"
    assert exam.read_text() == before
    code, _, err = run(train, "--against", tmp_path / "none.jsonl", "-o", tmp_path / "o.jsonl")
    assert code == 2
    assert err.startswith(f"--against {tmp_path / 'none.jsonl'}: no such file")
    code, _, err = run(train, "--against", exam, "-o", tmp_path / "o.parquet")
    assert code == 2
    assert "must end in .jsonl" in err


@needs_benchmark_files
def test_the_public_files_against_each_other(run, tmp_path):
    files = [benchmark_file(name) for name in NUM_PROBLEMS]
    report = tmp_path / "report.json"
    output = tmp_path / "clean.parquet"
    code, out, _ = run(files[3], "--against", *files, "-o", output, "--report", report, "--json")
    assert code == 0
    assert json.loads(out)["num_kept"] == 0
    code, out, _ = run(files[3], "--against", *files[:3], "-o", output, "--json")
    assert code == 0
    assert json.loads(out)["num_dropped"] == 0
