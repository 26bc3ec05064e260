import json
import re
import subprocess
from typing import Any

import pytest
from typer.testing import CliRunner

from vibelite import cli
from vibelite.commands.options import shipped_recipes
from vibelite.recipe.load import load_recipe

H100 = ["--gpu", "h100-80gb", "--usd-per-gpu-hour", "2"]
QWEN = ["--model", "Qwen/Qwen2.5-1.5B-Instruct"]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    rows = [
        {"question": f"What is {i} + {i}?", "result": str(2 * i), "topic": "sums"}
        for i in range(50)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "1 + 1 = ?", "answer": "2"}))
    messages = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "traces.jsonl").write_text(json.dumps({"messages": messages}))
    (tmp_path / "judge.py").write_text("def score(problem, text):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN = ["--problems", "own.jsonl", "--prompt", "question", "--answer", "result"]


def init(*arguments):
    return CliRunner().invoke(cli.app, ["init", *arguments])


def made(path, *arguments) -> Any:
    done = init(str(path), *arguments)
    assert done.exit_code == 0, done.exception
    return load_recipe(path)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        OWN,
        [*OWN, "--reward", "judge.py:score"],
        [*OWN, "--traces", "traces.jsonl", "--max-new-tokens", "64"],
        [*OWN, *QWEN, *H100],
        [*QWEN, "--problems", "some/dataset", "--gpu", "rtx4090-24gb"],
    ],
    ids=["generated", "own", "reward", "traces", "gpu", "hub"],
)
def test_what_is_written_is_a_recipe(directory, arguments):
    recipe = made(directory / "mine.yaml", *arguments)
    kinds = [stage.kind for stage in recipe.stages]
    start = ["sft"] if "--traces" in arguments else []
    assert kinds == [*start, "mgpo", "evaluate", "export"]
    assert sorted(path.name for path in directory.iterdir()) == [
        "judge.py", "mine.yaml", "one.jsonl", "own.jsonl", "traces.jsonl",
    ]  # fmt: skip


def test_own_problems_are_parted_and_paths_are_relative_to_the_recipe(directory):
    (directory / "recipes").mkdir()
    recipe = made(directory / "recipes" / "mine.yaml", *OWN, "--reward", "judge.py")
    train, held_out = (recipe.data.problems[name] for name in ("train", "held-out"))
    assert (train.part, held_out.part) == ("train", "held-out")
    assert train.path == "../own.jsonl" and train.reward.file == "../judge.py"
    assert train.columns.prompt == "question" and train.verifier == "custom"


def test_settings_are_changed_until_it_fits_and_comments_stay(directory):
    from vibelite.planning.plan import USABLE

    large = made(directory / "large.yaml", *QWEN, *OWN, *H100)
    small = made(directory / "small.yaml", *QWEN, *OWN, "--gpu", "rtx4090-24gb")
    assert large.stage_named("mgpo").optimizer.kind == "adamw"
    assert small.stage_named("mgpo").optimizer.kind == "adamw_cpu"
    text = (directory / "small.yaml").read_text()
    assert "so that it fits: " in text and "optimizer.kind=adamw_cpu" in text
    assert text.count("#") > 8
    done = CliRunner().invoke(cli.app, ["plan", "small.yaml", "--gpu", "rtx4090-24gb", "--json"])
    plan = json.loads(done.stdout)
    assert done.exit_code == 0 and 0 < USABLE < 1 and plan["fits"] is True


def test_the_time_is_printed_as_the_plan_prints_it(directory):
    times = []
    for tokens in ("48", "128"):
        done = init(f"of-{tokens}.yaml", "--max-new-tokens", tokens)
        times += re.findall(r"about (.+) on cpu", done.output)
        plan = CliRunner().invoke(cli.app, ["plan", f"of-{tokens}.yaml", "--gpu", "cpu"]).stdout
        assert re.search(rf"^all +{times[-1]}$", plan, re.MULTILINE)
    assert len(set(times)) == 2


def test_settings_of_one_stage_leave_the_others_as_they_are(directory):
    arguments = [*QWEN, *OWN, "--gpu", "l40s-48gb", "--max-new-tokens", "16384"]
    recipe = made(directory / "long.yaml", *arguments)
    mgpo, evaluate = recipe.stage_named("mgpo"), recipe.stage_named("evaluate")
    assert mgpo.optimizer.kind == "adamw_cpu", "rather than one completion at a time"
    assert mgpo.sampling.max_sequences > 16
    assert (mgpo.sampling.max_new_tokens, evaluate.sampling.max_new_tokens) == (16384, 16384)
    done = CliRunner().invoke(cli.app, ["plan", "long.yaml", "--gpu", "l40s-48gb", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["fits"] is True


def test_a_first_look_on_a_cpu_is_planned_for_eight_minutes_at_most(directory):
    rows = [{"question": f"What is {i} + {i}?", "result": str(2 * i)} for i in range(600)]
    (directory / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, problems in (("few", "own.jsonl"), ("many", "many.jsonl")):
        done = init(f"{name}.yaml", *OWN, "--problems", problems, "--gpu", "cpu")
        assert "a first look on a CPU: it shows that rows, reward and recipe work" in done.output
        plan = CliRunner().invoke(cli.app, ["plan", f"{name}.yaml", "--json"]).stdout
        assert json.loads(plan)["seconds"] <= 480
    assert "first look" not in init("gpu.yaml", *QWEN, *OWN, *H100).output


def test_every_hint_is_a_command_that_works_as_it_is_printed(directory):
    (directory / "my recipes").mkdir()
    done = init("my recipes/mine.yaml", *OWN)
    printed = [line.partition(": ")[2] for line in done.output.splitlines()[-3:]]
    text = (directory / "my recipes" / "mine.yaml").read_text()
    written = [line.partition(":  ")[2] for line in text.splitlines() if line.startswith("# ")]
    plan, doctor, run = printed
    assert {plan, run} <= set(written)
    assert subprocess.run(plan, shell=True).returncode == 0
    report = subprocess.run(f"{doctor} --json", shell=True, capture_output=True, text=True)
    subjects = {one["subject"]: one["status"] for one in json.loads(report.stdout)["findings"]}
    assert subjects["memory of the recipe"] == "ok"
    checked = subprocess.run(f"{run} --until none", shell=True, capture_output=True, text=True)
    assert "--until none: no such stage" in checked.stderr


def test_what_was_planned_for_stands_in_the_recipe(directory):
    assert made(directory / "gpu.yaml", *QWEN, *OWN, *H100).cost.gpu == "h100-80gb"
    done = CliRunner().invoke(cli.app, ["plan", "gpu.yaml", "--json"])
    assert json.loads(done.stdout)["device"]["name"] == "h100-80gb"
    assert made(directory / "here.yaml", *OWN).cost.gpu == "cpu"


def test_settings_and_sub_domains_of_the_command_line_are_written(directory):
    settings = ("--set", "seed=4", "--set", "stages.mgpo.optimizer.lr=3e-6")
    recipe = made(directory / "set.yaml", *OWN, "--subdomain", "topic", *settings)
    assert (recipe.seed, recipe.stage_named("mgpo").optimizer.lr) == (4, 3e-6)
    assert recipe.data.problems["train"].columns.subdomain == "topic"
    assert (directory / "set.yaml").read_text().count("#") > 8


def test_a_shipped_recipe_is_copied_with_its_comments_and_changed(directory):
    arguments = ("--from", "vibethinker_1p5b_1x24gb", "--set", "seed=7")
    recipe = made(directory / "big.yaml", *arguments)
    shipped = shipped_recipes()["vibethinker_1p5b_1x24gb"]
    assert recipe == load_recipe(shipped, ["seed=7", "name=big"])
    copied = (directory / "big.yaml").read_text()
    assert copied.count("#") == shipped.read_text().count("#")


def test_a_budget_cuts_the_steps_to_what_it_pays(directory):
    done = init("free.yaml", *QWEN, *OWN, *H100)
    full = float(re.findall(r"\$([\d.]+)", done.output)[0])
    done = init("half.yaml", *QWEN, *OWN, *H100, "--budget-usd", str(full / 2))
    half = float(re.findall(r"\$([\d.]+)", done.output)[0])
    assert 0.35 * full < half <= 0.8 * full / 2 + 0.01
    recipe = load_recipe(directory / "half.yaml")
    assert recipe.budget.usd == pytest.approx(full / 2) and recipe.cost.usd_per_gpu_hour == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own.jsonl"], "exists already"),
        (["mine.txt"], "ends in .yaml"),
        (["mine.yaml", "--problems", "none.jsonl"], "none.jsonl: no such file"),
        (["mine.yaml", "--problems", "none"], "neither a .jsonl"),
        (["mine.yaml", "--problems", "own.jsonl"], r"own.jsonl:1: .*no column 'answer'"),
        (["mine.yaml", *OWN, "--reward", "none.py"], "no file none.py"),
        (["mine.yaml", "--reward", "judge.py"], "--reward: needs --problems"),
        (["mine.yaml", "--problems", "one.jsonl"], "which is 0.2 of them by hash; add rows"),
        (["mine.yaml", "--subdomain", "topic"], "--subdomain: needs --problems"),
        (["mine.yaml", "--set", "sed=1"], "--set sed=1: unknown key; did you mean 'seed'"),
        (["mine.yaml", "--from", "quickstrt"], "did you mean 'quickstart'"),
        (["mine.yaml", "--from", "quickstart", *OWN], "--from: copies a recipe as it is"),
        (["mine.yaml", "--gpu", "rtx4091-24gb"], "rtx4090-24gb"),
        (["mine.yaml", "--budget-usd", "3"], "needs --usd-per-gpu-hour"),
        (["mine.yaml", *OWN, *QWEN, *H100, "--max-new-tokens", "9000000"], "no setting makes"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(directory, arguments, message):
    before = sorted(directory.iterdir())
    done = init(*arguments)
    assert getattr(done.exception, "exit_code", None) == 2
    assert re.search(message, str(done.exception)), done.exception
    assert sorted(directory.iterdir()) == before
