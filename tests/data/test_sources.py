"""Problems and traces from files, from the hub, and by the project's own solutions."""

import json

import pytest

from tests.data.tables import load, write
from vibelite.data.sources import load_problems, load_traces
from vibelite.errors import DataError
from vibelite.recipe.data_section import (
    Columns,
    GeneratedProblems,
    GeneratedTask,
    ProblemTable,
    TraceTable,
    WorkedTraces,
)

BENCHMARK = Columns(prompt="prompt", answer="reward_model.ground_truth")


def test_the_same_rows_load_from_jsonl_and_json(tmp_path):
    rows = [
        {"q": "7 + 5?", "a": 12, "topic": "Number Theory", "key": "first"},
        {"q": "1/2 + 1/2?", "a": 1.0, "topic": "algebra", "key": "second"},
    ]
    columns = {"prompt": "q", "answer": "a", "subdomain": "topic", "id": "key"}
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "rows.json", rows)
    from_lines = load(tmp_path / "rows.jsonl", columns=columns)
    assert from_lines == load(tmp_path / "rows.json", columns=columns)
    assert [(p.id, p.subdomain, p.answer) for p in from_lines] == [
        ("first", "Number-Theory", "12"),
        ("second", "algebra", "1"),
    ]


GOOD = {"prompt": "1 + 1?", "answer": "2"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"answer": "2"}, "rows.jsonl:3: no column 'prompt'; .* there is: answer"),
        ({"prompt": "?", "answer": None}, "rows.jsonl:3: answer: .*nothing"),
        ({"prompt": "?", "answer": True}, "rows.jsonl:3: answer: .*bool"),
        ({"prompt": "?", "answer": " "}, "rows.jsonl:3: answer: .*text or number"),
        ({"prompt": "?", "answer": "\\text{}"}, "rows.jsonl:3: answer: .*cannot be read"),
        ({"prompt": 7, "answer": "2"}, "rows.jsonl:3: prompt: expected text or a list"),
        ({"prompt": [], "answer": "2"}, "rows.jsonl:3: prompt: expected text or a list"),
        ({"prompt": [{"role": "robot", "content": "?"}], "answer": "2"}, "needs a role"),
        ({"prompt": "  ", "answer": "2"}, "rows.jsonl:3: prompt: a message needs"),
        (
            {"prompt": [{"role": "assistant", "content": "2"}], "answer": "2"},
            "rows.jsonl:3: prompt ends with an answer",
        ),
        ([1, 2], "rows.jsonl:3: expected an object, found list"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path, bad, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=message):
        load(path)


def test_a_missing_struct_field_says_what_is_there(tmp_path):
    write(tmp_path / "rows.jsonl", [{"prompt": "?", "reward_model": {"style": "rule"}}])
    with pytest.raises(DataError, match="'ground_truth' was looked for there is: style"):
        load(tmp_path / "rows.jsonl", columns=BENCHMARK)


def test_ids_that_occur_twice_are_named(tmp_path):
    write(tmp_path / "rows.jsonl", [{**GOOD, "id": 5}, {**GOOD, "id": 6}, {**GOOD, "id": 5}])
    with pytest.raises(DataError, match=r"rows.jsonl:3: id '5' was used by .*rows.jsonl:1"):
        load(tmp_path / "rows.jsonl", columns={"id": "id"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no such file"),
        ("broken.jsonl", b'{"prompt": 1}\n{"prompt\n', "not valid JSON"),
        ("broken.parquet", b"no parquet", "not a readable parquet"),
        ("rows.xlsx", b"a,b", "cannot read .xlsx"),
        ("empty.jsonl", b"\n", "no rows"),
        ("object.json", b"{}", "expected a list"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}(:2)?: {message}"):
        load(tmp_path / name)


def test_a_hub_data_set_without_network_is_one_clear_error(monkeypatch, tmp_path):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nin any way")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    source = ProblemTable(source="hub", path="org/data", revision="abc", split="test")
    with pytest.raises(DataError, match=r"org/data@abc\[test\] cannot be loaded .*source: file"):
        load_problems(source, recipe_dir=tmp_path, seed=0)


def test_hub_rows_are_read_with_config_split_and_revision(monkeypatch, tmp_path):
    import datasets

    asked = []

    def load_dataset(path, config, *, split, revision):
        asked.append((path, config, split, revision))
        return datasets.Dataset.from_list([GOOD, {"prompt": "2 + 2?", "answer": "4"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = ProblemTable(
        source="hub", path="org/data", config="main", revision="abc", split="test"
    )
    problems = load_problems(source, recipe_dir=tmp_path, seed=0)
    assert asked == [("org/data", "main", "test", "abc")]
    assert [problem.answer for problem in problems] == ["2", "4"]


def test_traces_load_from_rows_of_messages(tmp_path):
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    write(tmp_path / "t.jsonl", [{"messages": messages, "topic": "sums"}])
    source = TraceTable(source="file", path="t.jsonl", subdomain_column="topic")
    traces = load_traces(source, {}, recipe_dir=tmp_path, seed=0)
    assert [(t.problem_id, t.subdomain, t.messages) for t in traces] == [
        ("t/0", "sums", tuple(messages))
    ]
    write(tmp_path / "t.jsonl", [{"messages": messages[:1], "topic": "sums"}])
    with pytest.raises(DataError, match="t.jsonl:1: messages must hold a question and end"):
        load_traces(source, {}, recipe_dir=tmp_path, seed=0)


def test_worked_traces_solve_exactly_the_training_problems(tmp_path):
    sets = {"train": generated("train"), "probe": generated("probe")}
    source = WorkedTraces(source="worked", problems="train", paths_per_problem=2)
    traces = load_traces(source, sets, recipe_dir=tmp_path, seed=3)
    problems = load_problems(sets["train"], recipe_dir=tmp_path, seed=3)
    assert {trace.problem_id for trace in traces} == {problem.id for problem in problems}
    assert len(traces) == 2 * len(problems)


def generated(split) -> GeneratedProblems:
    tasks = {"geometry": GeneratedTask(dataset="simple_geometry", config={"max_sides": 3})}
    return GeneratedProblems(source="reasoning_gym", split=split, num_problems=6, tasks=tasks)


def test_a_multiple_choice_is_made_from_the_columns_of_its_options(tmp_path):
    row = {"q": "Which?", "good": "salt", "bad 1": "sugar", "bad 2": 7}
    write(tmp_path / "rows.jsonl", [row])
    columns = {"prompt": "q", "answer": "good", "incorrect": ["bad 1", "bad 2"]}
    (problem,) = load(tmp_path / "rows.jsonl", columns=columns, verifier="choice")
    (message,) = problem.messages
    assert message["content"].startswith("Which?\n\nA. salt\nB. sugar\nC. 7\n\n")
    assert (problem.answer, problem.verifier) == ("A", "choice")


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ("Which?\nA. salt\nB. sugar", "C", "the answer 'C' is none of the letters A, B"),
        ("Which?\nA. salt\nB. sugar", "AB", "the answer 'AB' is none of the letters A, B"),
        ("Which, A or B?", "A", "no options in lines"),
    ],
)
def test_a_choice_without_its_gold_among_the_options_is_an_error(tmp_path, prompt, answer, message):
    write(tmp_path / "rows.jsonl", [{"prompt": prompt, "answer": answer}])
    with pytest.raises(DataError, match=f"rows.jsonl:1: answer: .*{message}"):
        load(tmp_path / "rows.jsonl", verifier="choice")


def test_problems_of_a_custom_reward_know_its_file_and_their_row(tmp_path):
    (tmp_path / "reward.py").write_text("def score(problem, text):\n    return 1.0\n")
    row = {"prompt": "?", "answer": "x", "hardness": 3}
    write(tmp_path / "rows.jsonl", [row])
    reward = {"file": "reward.py"}
    (problem,) = load(tmp_path / "rows.jsonl", verifier="custom", reward=reward)
    assert problem.metadata == {
        "reward_file": str(tmp_path / "reward.py"),
        "reward_function": "score",
        "row": row,
    }


def part_of(path, part, **options):
    return load(path, verifier="exact", part=part, **options)


def test_the_parts_of_a_table_share_no_prompt_and_leave_none_out(tmp_path):
    rows = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(400)]
    path = write(tmp_path / "own.jsonl", rows)
    train, held_out = part_of(path, "train"), part_of(path, "held-out")
    assert {p.id for p in train} | {p.id for p in held_out} == {p.id for p in part_of(path, "all")}
    assert not {p.id for p in train} & {p.id for p in held_out}
    assert 50 < len(held_out) < 110  # 80 of 400 expected, standard deviation 8
    assert len(part_of(path, "held-out", held_out=0.5)) > 150
    assert part_of(path, "train", num_problems=7) == train[:7]


def test_a_prompt_s_part_depends_on_its_letters_and_digits_alone(tmp_path):
    for i in range(40):
        prompts = [f"What is {i} + 1?", f"  what IS\n{i}+1 ?"]
        path = write(tmp_path / "own.jsonl", [{"prompt": p, "answer": "1"} for p in prompts])
        parts = [part for part in ("train", "held-out") if not is_empty(path, part)]
        assert len(parts) == 1 and len(part_of(path, parts[0])) == 2


def is_empty(path, part):
    try:
        return not part_of(path, part)
    except DataError as error:
        assert f"no rows in its part {part}" in str(error)
        return True


@pytest.mark.parametrize("part", ["train", "held-out"])
def test_an_id_that_occurs_twice_in_a_part_is_named_by_its_line(tmp_path, part):
    rows = [{"prompt": f"Question {i}", "answer": "1", "key": i} for i in range(30)]
    path, columns = write(tmp_path / "own.jsonl", rows), {"id": "key"}
    key = int(part_of(path, part, columns=columns)[0].id)
    write(path, [*rows, rows[key]])
    with pytest.raises(DataError, match=f":31: id '{key}' was used by .*:{key + 1}"):
        part_of(path, part, columns=columns)
