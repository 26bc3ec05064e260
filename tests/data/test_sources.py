"""Problems and traces from files, from the hub, and by the project's own solutions."""

import json

import pytest

from tests.data.tables import load, write
from vibelite.data.sources import load_problems, load_traces
from vibelite.errors import DataError
from vibelite.recipe.data_section import (
    BenchmarkProblems,
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


def test_hub_rows_are_read_as_named_or_told_to_be_out_of_reach(monkeypatch, tmp_path):
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

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nin any way")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"org/data@abc\[test\] cannot be loaded .*source: file"):
        load_problems(source, recipe_dir=tmp_path, seed=0)


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
    some = part_of(path, "train", num_problems=7)
    assert len(some) == 7 and all(problem in train for problem in some)


def test_a_prompt_s_part_depends_on_its_letters_and_digits_alone(tmp_path):
    prompts = [f"What is {i} + 1?" for i in range(40)]
    respelled = [prompt.upper().replace(" ", "  ") for prompt in prompts]
    path = write(tmp_path / "own.jsonl", [{"prompt": p, "answer": "1"} for p in prompts])
    first = [int(problem.id.split("/")[1]) for problem in part_of(path, "train")]
    write(path, [{"prompt": p, "answer": "1"} for p in reversed(respelled)])
    second = [39 - int(problem.id.split("/")[1]) for problem in part_of(path, "train")]
    assert first == sorted(second) and 20 < len(first) < 40


@pytest.mark.parametrize("part", ["train", "held-out"])
def test_an_id_that_occurs_twice_in_a_part_is_named_by_its_line(tmp_path, part):
    rows = [{"prompt": f"Question {i}", "answer": "1", "key": i} for i in range(30)]
    path, columns = write(tmp_path / "own.jsonl", rows), {"id": "key"}
    key = int(part_of(path, part, columns=columns)[0].id)
    write(path, [*rows, rows[key]])
    with pytest.raises(DataError, match=f":31: id '{key}' was used by .*:{key + 1}"):
        part_of(path, part, columns=columns)


def drawn(source, directory, seed: int) -> list[int]:
    """The rows that were taken."""
    if isinstance(source, TraceTable):
        rows = load_traces(source, {}, recipe_dir=directory, seed=seed)
        return [int(trace.problem_id.split("/")[1]) for trace in rows]
    rows = load_problems(source, recipe_dir=directory, seed=seed)
    return [int(problem.id.split("/")[1]) for problem in rows]


LIMITED = [
    (ProblemTable, {"num_problems": 10}, 10),
    (ProblemTable, {"num_per_subdomain": 5, "columns": {"subdomain": "half"}}, 10),
    (
        TraceTable,
        {"messages_column": "prompt", "completion_column": "answer", "num_traces": 10},
        10,
    ),
    (BenchmarkProblems, {"num_problems": 10}, 10),
]


@pytest.mark.parametrize(("kind", "values", "number"), LIMITED)
def test_a_limit_takes_a_sample_by_the_seed_and_never_the_top(tmp_path, kind, values, number):
    rows = [
        {"prompt": f"What is {n} + 1?", "problem": f"{n} + 1?", "answer": str(n + 1)}
        | {"half": f"of {n // 100}"}
        for n in range(200)
    ]
    path = write(tmp_path / "sorted.jsonl", rows)
    named = {"source": "file"}
    if kind is BenchmarkProblems:
        named = {"source": "benchmark", "name": "aime25"}
    source = kind.model_validate({**named, "path": str(path), **values})
    first, again, other = (drawn(source, tmp_path, seed) for seed in (0, 0, 1))
    assert first == again == sorted(first) and len(set(first)) == number
    assert other != first
    assert first[-1] > 100 and other[-1] > 100  # a chance of 0.001 that a sample is all of the top
    limits = dict.fromkeys(("num_problems", "num_per_subdomain", "num_traces"))
    unset = {name: None for name in limits if hasattr(source, name)}
    assert drawn(source.model_copy(update=unset), tmp_path, 1) == list(range(200))


def test_a_smaller_sample_is_in_a_larger_one_and_wants_what_can_be_used(tmp_path):
    rows = [{"prompt": f"{n} + 1?", "answer": str(n + 1) if n % 2 else ""} for n in range(100)]
    path = write(tmp_path / "own.jsonl", rows)
    with pytest.warns(UserWarning, match="rows cannot be used"):
        few, more = (
            [p.id for p in load(path, num_problems=number, max_unusable=0.9)] for number in (10, 20)
        )
    assert (len(few), len(more)) == (10, 20) and set(few) < set(more)
