"""Tables as people have them: formats, encodings, names of columns, and golds."""

import json
from pathlib import Path

import pytest

from tests.data.tables import load, write
from vibelite.data.sources import load_traces
from vibelite.errors import DataError
from vibelite.recipe.data_section import TraceTable
from vibelite.rewards.answer_text import final_gold
from vibelite.types import Problem, Trace

ROWS = [{"prompt": "Wie groß?", "answer": "3"}, {"prompt": "Why?\nSo.", "answer": "a,b"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt,answer\n"Wie groß?",3\n"Why?\nSo.","a,b"\n'


def read(path: Path, content: str | bytes) -> list[Problem]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(path, verifier="exact")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("marked.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("marked.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("lines.json", LINES),
        ("windows.jsonl", LINES.replace("\n", "\r\n")),
        ("rows.csv", CSV),
        ("marked.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("semicolons.csv", 'prompt;answer\r\nWie groß?;3\r\n"Why?\nSo.";a,b\r\n'),
        ("tabs.csv", 'prompt\tanswer\nWie groß?\t3\n"Why?\nSo."\ta,b\n'),
    ],
)
def test_the_same_rows_are_read_in_every_form(tmp_path: Path, name: str, content: str) -> None:
    problems = read(tmp_path / name, content)
    assert [(p.messages[0]["content"], p.answer) for p in problems] == [
        (row["prompt"], row["answer"]) for row in ROWS
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES.encode("utf-16"), r"a.jsonl:1: not UTF-8 text \(UTF-16\); convert"),
        ("a.json", json.dumps(ROWS).encode("utf-16"), r"a.json:1: not UTF-8 text \(UTF-16\)"),
        (
            "a.jsonl",
            b'{"prompt": "a", "answer": "1"}\n{"prompt": "\xdf", "answer": "1"}\n',
            r"a.jsonl:2: not UTF-8 text \(byte 0xdf\)",
        ),
        ("a.csv", "prompt,answer\na,1\nb\x97c,2\n".encode("latin-1"), "a.csv:3: not UTF-8 text"),
        ("a.csv", "prompt,answer\na,1\nb,c,2\n", "a.csv:3: more cells than the header"),
        ("a.csv", 'prompt,answer\n"a,1\n', "a.csv:2: not valid CSV"),
        ("a.json", "[" * 3000, "a.json: not valid JSON"),
        ("a.json", '{"prompt": 1}\n{"prompt"\n', "a.json:2: not valid JSON"),
        (
            "a.jsonl",
            '{"prompt": "a", "answer": "1"}\n{"prompt": "so \\ud83d!", "answer": "1"}\n',
            r"a.jsonl:2: prompt: half of a character \(\\ud83d, a lone surrogate\) after 'so '",
        ),
        (
            "a.json",
            '[{"prompt": "a", "answer": "\\udc00"}]',
            r"a.json: row 1: answer: half of a character \(\\udc00",
        ),
    ],
)
def test_what_is_no_text_is_named_by_file_and_row(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, content)


def test_a_whole_character_in_two_halves_is_read(tmp_path: Path) -> None:
    (problem,) = read(tmp_path / "a.jsonl", '{"prompt": "\\ud83d\\ude00", "answer": "1"}\n')
    assert problem.messages[0]["content"] == "\U0001f600"


def test_the_users_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "own.jsonl", ROWS)
    source = TraceTable(
        source="file", path="~/own.jsonl", messages_column="prompt", completion_column="answer"
    )
    found = load_traces(source, {}, recipe_dir=tmp_path / "elsewhere", seed=0)
    assert [trace.messages[-1]["content"] for trace in found] == ["3", "a,b"]


@pytest.mark.parametrize(
    ("row", "taken", "expected"),
    [
        ({"question": "1+1?", "ground_truth": 2}, "prompt: question, answer: ground_truth", "all"),
        (
            {"instruction": "1+1?", "solution": "\\boxed{2}", "category": "sums", "topic": "one"},
            "prompt: instruction, answer: solution, subdomain: topic",
            "one",
        ),
        ({"prompt": "1+1?", "answer": "2", "subject": "Sums"}, "subdomain: subject", "Sums"),
        ({"question": "no", "prompt": "1+1?", "answer": "2"}, "", "all"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_columns_are_guessed_and_told(
    tmp_path: Path, row: dict[str, str], taken: str, expected: str
) -> None:
    path = write(tmp_path / "own.jsonl", [row])
    if taken:
        with pytest.warns(UserWarning, match=f"own.jsonl: columns taken as {{{taken}}}"):
            (problem,) = load(path)
    else:
        (problem,) = load(path)
    assert (problem.messages[0]["content"], problem.subdomain) == ("1+1?", expected)
    assert problem.answer == "2"


@pytest.mark.filterwarnings("error")
def test_named_columns_leave_nothing_to_guess(tmp_path: Path) -> None:
    row = {"question": "1+1?", "text": "2+2?", "answer": "4", "topic": "sums"}
    (problem,) = load(write(tmp_path / "own.jsonl", [row]), columns={"prompt": "text"})
    assert (problem.messages[0]["content"], problem.subdomain) == ("2+2?", "all")
    with pytest.raises(DataError, match="no column 'texts'"):
        load(tmp_path / "own.jsonl", columns={"prompt": "texts"})


def traces(tmp_path: Path, row: dict[str, object]) -> list[Trace]:
    write(tmp_path / "own.jsonl", [row])
    source = TraceTable(source="file", path="own.jsonl")
    return load_traces(source, {}, recipe_dir=tmp_path, seed=0)


TALK = [{"role": "user", "content": "It's 1+1?"}, {"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"messages": json.dumps(TALK)},
        {"messages": f"  {TALK}"},
        {"conversations": [{"from": "human", "value": "It's 1+1?"}, {"from": "gpt", "value": "2"}]},
        {"question": "It's 1+1?", "response": "2"},
        {"instruction": "It's 1+1?", "output": "2"},
    ],
)
@pytest.mark.filterwarnings("ignore:.*columns taken as")
def test_traces_are_found_under_the_names_that_people_use(
    tmp_path: Path, row: dict[str, object]
) -> None:
    (trace,) = traces(tmp_path, row)
    assert list(trace.messages) == TALK


def test_a_question_in_two_columns_is_not_cut_in_half(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="own.jsonl:1: no column 'messages'"):
        traces(tmp_path, {"instruction": "Add.", "input": "1 and 1", "output": "2"})


def test_an_ordinary_text_that_begins_like_a_list_stays_one(tmp_path: Path) -> None:
    text = '[{"role": of a colon in YAML'
    (problem,) = read(
        tmp_path / "a.csv", f'prompt,answer\n"{text.replace(chr(34), chr(34) * 2)}",1'
    )
    assert problem.messages[0]["content"] == text


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("He has 3 * 14 = <<3*14=42>>42.\nSo\n#### 42", "42"),
        ("#### 1,250", "1,250"),
        ("First \\boxed{1}, and then it is $x = \\boxed{\\frac{2}{3}}$.", "\\frac{2}{3}"),
        ("\\frac{2}{3}", "\\frac{2}{3}"),
        ("not enough information", "not enough information"),
        ("the set of all real numbers", "the set of all real numbers"),
    ],
)
def test_the_gold_of_a_worked_solution_is_what_it_says_last(answer: str, gold: str) -> None:
    assert final_gold(answer) == gold


NO_GOLDS = ["NaN", "none", "N/A", "Proof.", "null"]


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), *NO_GOLDS])
def test_a_gold_that_nothing_could_equal_is_an_unusable_row(
    tmp_path: Path, answer: str | float
) -> None:
    path = write(tmp_path / "own.jsonl", [{"prompt": "?", "answer": a} for a in ("1", answer)])
    with pytest.raises(DataError, match="own.jsonl:2: answer: .*(could|can) equal"):
        load(path)
    with pytest.warns(UserWarning, match="1 of 2 rows cannot be used"):
        assert len(load(path, max_unusable=0.5)) == 1


def test_none_may_be_the_right_word(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", [{"prompt": "Which word?", "answer": "None"}])
    assert load(path, verifier="exact")[0].answer == "None"
