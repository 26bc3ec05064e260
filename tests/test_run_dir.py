"""Files of a run: atomic, readable after a torn write, and seeds that need no saving."""

import json

import pytest

from vibelite.errors import CheckpointError
from vibelite.run_dir import (
    RunDir,
    StageDir,
    append_jsonl,
    append_text,
    derive_seed,
    new_directory,
    read_json,
    read_jsonl,
    replace_directory,
    write_json_atomic,
    write_jsonl_atomic,
)
from vibelite.storage import CHECKSUMS_NAME


def test_rows_with_every_kind_of_line_break_survive(tmp_path):
    rows = [{"text": "a\nb\r\nc\u2028d\x85e\x0cf\x1cg"}, {"text": "next"}]
    append_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl_atomic(tmp_path / "b.jsonl", rows)
    assert list(read_jsonl(tmp_path / "a.jsonl")) == rows
    assert list(read_jsonl(tmp_path / "b.jsonl")) == rows


def test_a_torn_last_line_is_left_out(tmp_path):
    append_jsonl(tmp_path / "a.jsonl", [{"step": 1}])
    with open(tmp_path / "a.jsonl", "ab") as file:
        file.write('{"step": 2, "text": "é'.encode()[:-1])
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [{"step": 1}]


def test_truncation_drops_later_steps_and_the_torn_line_and_counts_what_there_was(tmp_path):
    stage = StageDir(tmp_path)
    assert stage.truncate_after(0) == 0
    append_jsonl(stage.steps_path, [{"step": step} for step in (1, 2, 3)])
    with open(stage.steps_path, "a") as file:
        file.write('{"st')
    assert stage.truncate_after(2) == 3
    append_jsonl(stage.steps_path, [{"step": 3}])
    assert [row["step"] for row in read_jsonl(stage.steps_path)] == [1, 2, 3]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"old": 1})
    with pytest.raises(ValueError):
        write_json_atomic(path, {"new": float("nan")})
    assert read_json(path) == {"old": 1}


def test_a_new_text_is_on_the_disk_before_it_has_its_name(tmp_path, disk_calls):
    write_json_atomic(tmp_path / "a.json", {"new": 1})
    assert disk_calls == [
        "fsync .a.json.tmp",
        "replace .a.json.tmp -> a.json",
        f"fsync {tmp_path.name}",
    ]


def test_appended_text_is_on_the_disk_only_where_that_is_asked(tmp_path, disk_calls):
    append_text(tmp_path / "a.jsonl", "one\n")
    assert disk_calls == []
    append_text(tmp_path / "a.jsonl", "two\n", is_synced=True)
    assert disk_calls == ["fsync a.jsonl"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a":')
    with pytest.raises(CheckpointError, match="a.json: cannot be read"):
        read_json(tmp_path / "a.json")


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    replace_directory(tmp_path / "new", tmp_path / "target")
    names = sorted(path.name for path in (tmp_path / "target").iterdir())
    assert names == [CHECKSUMS_NAME, "new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_directory_has_its_name_only_when_all_of_it_is_on_the_disk(tmp_path, disk_calls):
    with new_directory(tmp_path / "model") as temporary:
        (temporary / "part").mkdir()
        (temporary / "weights").write_text("w")
        (temporary / "part" / "rows").write_text("r")
    rename = disk_calls.index("replace .model.tmp -> model")
    before, after = disk_calls[:rename], disk_calls[rename + 1 :]
    inside = {f"fsync {name}" for name in ("weights", "rows", CHECKSUMS_NAME, "part", ".model.tmp")}
    assert inside <= set(before)
    # Names are on the disk after what they name.
    assert before.index("fsync .model.tmp") > before.index(f"fsync {CHECKSUMS_NAME}")
    assert f"fsync {tmp_path.name}" in after


def test_a_stage_is_finished_once_it_says_which_models_it_made(tmp_path):
    run = RunDir(tmp_path)
    stage = run.stage(3, "sft")
    assert not stage.is_finished
    last = stage.checkpoints / "step-000002"
    for name in ("step-000001", "step-000002"):
        (stage.checkpoints / name).mkdir(parents=True)
    names = [path.name for path in sorted(stage.checkpoints.iterdir())]
    stage.finish(models={"early": stage.checkpoints / names[0], "sft": last}, checkpoints=names)
    assert run.find_stage("sft").is_finished
    assert list(run.find_stage("sft").models()) == ["early", "sft"]
    assert run.find_stage("sft").models()["sft"] == last.resolve()
    assert [path.name for path in stage.kept_checkpoints()] == names
    assert str(tmp_path) not in json.dumps(read_json(stage.status_path)), "a run can be moved"
    last.rmdir()
    for read in (stage.models, stage.kept_checkpoints):
        with pytest.raises(CheckpointError, match=r"step-000002: is missing; restore it"):
            read()


def test_a_new_directory_that_fails_leaves_the_old_one(tmp_path):
    with new_directory(tmp_path / "model") as directory:
        (directory / "weights").write_text("old")
    with pytest.raises(KeyError), new_directory(tmp_path / "model") as directory:
        (directory / "weights").write_text("new")
        raise KeyError
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_stage_that_has_not_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="'fuse' has not run"):
        RunDir(tmp_path).find_stage("fuse")


def test_seeds_depend_on_every_part_and_on_nothing_else():
    seeds = {derive_seed(0), derive_seed(1), derive_seed(0, "a"), derive_seed(0, "a", 1)}
    assert len(seeds) == 4
    assert derive_seed(0, "mgpo", 3) == 174810348264433045
    assert all(0 <= seed < 2**63 for seed in seeds)
