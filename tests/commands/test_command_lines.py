"""Wrong command lines: exit code 2, one message with where and what to do, no traceback."""

import json
import shlex
import sys

import pytest

from tests.recipe.texts import write_recipe
from vibelite import cli

# The command line, and what its message begins with or says.
WRONG = {
    "frobnicate": "No such command 'frobnicate'. Did you mean 'replicate'?",
    "run": "Missing argument 'recipe'",
    "run none.yaml": "none.yaml: no such recipe",
    "run broken.yaml": "broken.yaml:1:5: not YAML: ",
    "run quikstart": "quikstart: no such file, and no recipe that comes with vibelite; did",
    "run empty": "empty: is a directory; name the YAML file of a recipe",
    "run recipe.yaml --until mpgo": "--until mpgo: no such stage; did you mean 'mgpo'?",
    "run recipe.yaml --set stages.mgpo.num_stps=3": "unknown key; did you mean 'num_steps'?",
    "run recipe.yaml --set seed": "--set seed: must be KEY=VALUE, for instance",
    "run recipe.yaml --set seed=-1": "--set seed=-1: must be greater than or equal to 0, not -1",
    "run recipe.yaml --budget-usd -1": "'--budget-usd': must be greater than or equal to 0",
    "run recipe.yaml --run-dir rows.jsonl": "name another directory with --run-dir",
    "plan recipe.yaml --gpu h100": "--gpu h100: not listed; did you mean 'h100-80gb'?; known: l4-",
    "plan recipe.yaml --gpu tpu": "--gpu tpu: not listed; known: l4-24gb, ",
    "plan recipe.yaml --num-gpus 0": "'--num-gpus': must be greater than or equal to 1",
    "plan recipe.yaml --assume context_gib=0": "context_gib=0: must be a number above 0",
    "init recipe.yaml": "recipe.yaml: exists already; name a new file",
    "init new.yaml --problems none.csv": "none.csv: no such file",
    "init new.yaml --problems empty": "empty: neither a .jsonl, .json, .parquet, .csv file nor",
    "init new.yaml --problems broken.jsonl": "broken.jsonl:1: not valid JSON",
    "init new.yaml --problems rows.jsonl --prompt q": "rows.jsonl:1: no column 'q'; where",
    "init new.yaml --model nowhere": "model.path: there is no file or directory nowhere",
    "init new.yaml --model some/model": "name that with --set model.path=DIRECTORY (vibelite",
    "init new.yaml --from nothing": "no recipe that comes with vibelite; known: justrl_1p5b_8x",
    "init new.yaml --verifier maths": "'maths' is not one of 'math', 'exact', 'choice', 'code'",
    "eval none --bench gcd": "none: no such model directory, nor owner/name of a hub's model",
    "eval owner/name --bench gcd": "owner/name: no such model directory, and the hub's model of",
    "eval model --bench gcdd": "has no data set 'gcdd'; did you mean 'gcd'?",
    "eval model --bench none.jsonl": "none.jsonl: no such file",
    "eval model --bench gcd --columns promt=q": "is not NAME=COLUMN; did you mean 'prompt'?",
    "eval model --bench gcd --k 9": "--num-samples 8: must be at least --k 9",
    "eval model --bench gcd --file rows.jsonl": "--file rows.jsonl: only with --bench aime24, ",
    "probe empty --problems gcd": "empty: not a Hugging Face model directory (no config.json)",
    "probe model --problems gcd --k 17": "--num-samples 16: must be at least --k 17",
    "fuse model model --weights 1 -o out": "--weights: 1 weights for 2 models",
    "fuse model model --weights a,b -o out": "--weights a,b: must be numbers such as 0.5,0.5",
    "fuse model model --weights 0,0 -o out": "none may be negative, nor all 0",
    "fuse model -o empty": "empty: exists already; name a new directory",
    "export empty --to out": "empty: not a run directory (no recipe.resolved.yaml)",
    "report none": "none: not a run directory (no recipe.resolved.yaml)",
    "sweep recipe.yaml --over seed": "--over seed: must be KEY=VALUE,VALUE,...",
    "sweep recipe.yaml --over seed=1,x": "--set seed=x: must be a whole number, not 'x'",
    "replicate none.json": "none.json: no such file; name the manifest.json of a run",
    "replicate rows.jsonl": "rows.jsonl: not the manifest of a run (it has no resolved_recipe)",
    "decontaminate none.jsonl --against rows.jsonl -o new.jsonl": "none.jsonl: no such file",
    "decontaminate rows.jsonl --against aime27 -o new.jsonl": "did you mean 'aime26'?",
    "decontaminate rows.jsonl --against rows.jsonl -o rows.jsonl": "is one of the inputs; name ano",
    "decontaminate rows.jsonl --against rows.jsonl -o new.txt": "new.txt: must end in .jsonl, as",
    "build-probe rows.jsonl -o new.jsonl": "--columns: name the column of the sub-domain, as in",
    "build-probe empty -o new.jsonl": "empty: neither a table nor the owner/name of a data set",
    "doctor none.yaml": "none.yaml: no such recipe",
}
WITHOUT_JSON = ("frobnicate", "run", "init", "export", "report")


@pytest.fixture
def directory(tmp_path, monkeypatch):
    write_recipe(tmp_path)
    for name in ("empty", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "broken.jsonl").write_text("one\n")
    (tmp_path / "broken.yaml").write_text("x: [")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_told_where_and_what_to_do(line, directory, monkeypatch, capsys):
    before = sorted(directory.rglob("*"))
    arguments = shlex.split(line)
    has_json = arguments[0] not in WITHOUT_JSON
    monkeypatch.setattr(sys, "argv", ["vibelite", *arguments, *["--json"] * has_json])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert WRONG[line] in err and "Traceback" not in err
    if has_json:
        told = json.loads(out)
        assert told["exit_code"] == 2 and WRONG[line] in told["error"]
    else:
        assert out == ""
    assert sorted(directory.rglob("*")) == before
