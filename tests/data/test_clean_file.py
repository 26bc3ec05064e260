"""Files through the cleaner: what stays is unchanged, what goes is explained."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from vibelite.data.clean import Cleaner, CleaningRules
from vibelite.data.clean_file import clean_file, read_items, texts_in
from vibelite.errors import DataError

EXAM = "Two runners start at opposite ends of a straight track of 400 meters; when do they meet?"
LOOP = "so we try the next number and see that it does not work either because " * 12


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"id": "runners", "question": EXAM, "answer": "never"}) + "\n")
    return path


def cleaner(exam: Path, **rules: float) -> Cleaner:
    return Cleaner(read_items(exam), CleaningRules(**rules))


def test_lines_that_stay_are_copied_byte_for_byte(tmp_path: Path, exam: Path) -> None:
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
    (dropped,) = judge.tally.dropped
    assert (dropped["row"], dropped["id"], dropped["item"]) == (1, "train/1", "runners")
    assert judge.tally.as_json()["num_kept"] == 2


def test_parquet_keeps_its_types_and_order(tmp_path: Path, exam: Path) -> None:
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
    assert len(judge.tally.dropped) == 3000
    assert judge.tally.dropped[0]["id"] == "11"


def test_answers_are_looked_through_and_loops_in_them_dropped(tmp_path: Path, exam: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": LOOP}, {"role": "assistant", "content": "ok"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": LOOP}]},
        {"question": "q", "solution": f"As in the exam: {EXAM}"},
        {"question": "q", "response": LOOP},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = cleaner(exam, max_repetition=0.5)
    clean_file(tmp_path / "train.jsonl", tmp_path / "clean.jsonl", judge)
    reasons = [(row["row"], row["rule"]) for row in judge.tally.dropped]
    assert reasons == [(1, "repetition"), (2, "ngram"), (3, "repetition")]
    assert judge.tally.dropped[0]["repeated_share"] > 0.8


def test_only_the_named_columns_are_looked_at(tmp_path: Path, exam: Path) -> None:
    rows = [{"a": {"b": EXAM}, "c": ""}, {"a": {"b": ""}, "c": EXAM}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = cleaner(exam)
    clean_file(tmp_path / "train.jsonl", tmp_path / "clean.jsonl", judge, ["a.b"])
    assert [row["row"] for row in judge.tally.dropped] == [0]


def test_near_duplicates_of_earlier_rows_and_of_the_exam_go(tmp_path: Path, exam: Path) -> None:
    pytest.importorskip("rensa")
    text = " ".join(f"word{n}" for n in range(80))
    rows = [{"text": text}, {"text": f"{text} more"}, {"text": "another thing entirely"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = cleaner(exam, near_duplicates=0.8)
    clean_file(tmp_path / "train.jsonl", tmp_path / "clean.jsonl", judge)
    (dropped,) = judge.tally.dropped
    assert (dropped["row"], dropped["rule"], dropped["item"]) == (1, "near_duplicate", "train/0")
    assert dropped["similarity"] > 0.9


def test_texts_are_found_wherever_they_are_and_system_messages_are_not_asked() -> None:
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
    name: str, text: str, message: str, tmp_path: Path, exam: Path
) -> None:
    (tmp_path / name).write_text(text)
    target = (tmp_path / "clean.jsonl").with_suffix(Path(name).suffix)
    with pytest.raises(DataError, match=message):
        clean_file(tmp_path / name, target, cleaner(exam))
    assert not target.exists()


def test_an_evaluation_file_without_a_known_question_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "exam.jsonl").write_text('{"Frage": "Was?"}\n')
    with pytest.raises(DataError, match=r"exam.jsonl:1: none of the columns .*there are: Frage"):
        read_items(tmp_path / "exam.jsonl")
    (item,) = read_items(tmp_path / "exam.jsonl", "Frage")
    assert item.text == "Was?"
