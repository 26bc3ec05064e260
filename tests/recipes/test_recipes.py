"""Every recipe of the project: it validates, its plan says what its comment says, and it runs to
its end on a tiny model, all stages, over rows with the columns of its real data.

The texts are scripted, half of them right, so that groups are mixed and solutions are verified; all
else is real.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.policies import tiny_policy
from tests.recipes.public_rows import PROGRAM, write_all
from tests.scripted_model import ScriptedModel
from vibelite import cli
from vibelite.data.sources import load_traces
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import dump_resolved, load_recipe
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import SFTStage
from vibelite.resume import what_matters, without_paths
from vibelite.run_dir import read_json, read_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPES = Path(__file__).parent.parent.parent / "recipes"
REPLICATIONS = sorted(path.stem for path in RECIPES.glob("vibethinker_*.yaml"))
PUBLIC = [*REPLICATIONS, "justrl_1p5b_8x80gb"]
NUM_STEPS = 3
SUBDOMAINS = {"algebra", "geometry", "calculus", "statistics"}
DOMAINS = {"vibethinker_3b": {"mathematics", "code", "stem"}}
RIGHT, WRONG = f"So \\boxed{{1}}.\n{PROGRAM}", "So \\boxed{2}.\n```python\nprint(2)\n```"
TINY = (
    "model={source: tiny, hidden_size: 16, num_layers: 1, num_heads: 2, mlp_size: 16, "
    "vocab_size: 600, max_position: 4096}"
)


def reply(question: str, sample: int) -> str:
    """Right and wrong in turns; right ones of different lengths."""
    return "Well. " * sample + (RIGHT if sample % 2 == 0 else WRONG)


def small(recipe: Recipe) -> list[str]:
    """What makes every stage of a recipe three steps on a tiny model."""
    overrides = [TINY, "num_gpus=1", "rollout.engine=transformers", "verification.num_workers=1"]
    overrides += ["cost={usd_per_hour: 1}"]  # one per GPU needs a GPU
    for stage in recipe.stages:
        changes: dict[str, Any] = {}
        match stage.kind:
            case "sft":
                changes = {"num_steps": NUM_STEPS, "sequences_per_step": 2, "checkpoint_every": 1}
            case "mgpo":
                changes = {"num_steps": NUM_STEPS, "problems_per_step": 1, "group_size": 4}
                changes |= {"prefilter_samples": 2, "prefilter_problems": 4}
            case "probe":
                changes = {"num_samples": 2, "k": 2}
            case "filter":
                changes = {"num_samples": 2, "min_tokens": 4, "min_error_rate": 0.5}
            case "distill":
                changes = {"num_samples": 2, "min_tokens": 4}
            case "evaluate":
                changes = {"num_samples": 2, "k": [2]}
        if hasattr(stage, "sampling"):
            changes |= {"sampling.max_new_tokens": 512, "sampling.max_sequences": 8}
        overrides += [
            f"stages.{stage.name}.{key}={json.dumps(value)}" for key, value in changes.items()
        ]
    return overrides


def made_by(recipe: Recipe, stage: SFTStage) -> list[tuple[int, Any]]:
    """The stages, with their places, whose traces it reads."""
    return [(n, other) for n, other in enumerate(recipe.stages) if other.name in stage.traces]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_all(tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_recipe_validates_under_its_own_name(name: str) -> None:
    assert load_recipe(RECIPES / f"{name}.yaml").name == name


@pytest.mark.parametrize("name", [*PUBLIC, "qwen2p5_0p5b", "speedrun_0p5b"])
def test_the_plan_is_the_one_in_the_comment(name: str) -> None:
    """Within a tenth, so that a better planner need not rewrite them each time."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    comment = re.search(r"^#   vibelite (plan recipes/.*)\n#   (.*)$", text, re.MULTILINE)
    assert comment, "the command and, below it, what it prints"
    command, printed = comment.groups()
    assert command.split()[1] == f"recipes/{name}.yaml"
    arguments = [f"{RECIPES / name}.yaml" if "recipes/" in a else a for a in command.split()]
    done = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    hours, usd, peak = map(float, re.findall(r"([\d.]+) (?:h|USD|GiB)\b", printed)[:3])
    assert hours == pytest.approx(plan["seconds"] / 3600, rel=0.1)
    assert usd == pytest.approx(plan["usd"], rel=0.1)
    assert peak == pytest.approx(plan["peak_bytes"] / 2**30, rel=0.1)


def test_recipes_of_one_model_have_the_same_data() -> None:
    """But for how many traces they take."""

    def data(name: str) -> Any:
        values = load_recipe(RECIPES / f"{name}.yaml").data.model_dump()
        for part in values["traces"]["traces"]["sets"]:
            del part["num_traces"]
        return values

    first, *others = [name for name in REPLICATIONS if "_1p5b_" in name]
    assert len(others) == 3
    for other in others:
        assert data(other) == data(first)


def test_hub_data_are_pinned() -> None:
    for name in PUBLIC:
        recipe = load_recipe(RECIPES / f"{name}.yaml")
        mixes: Any = recipe.data.traces.values()
        sets = [part for mix in mixes for part in mix.sets]
        sources = [*sets, *recipe.data.problems.values(), recipe.model]
        pins = [source.revision for source in sources if hasattr(source, "revision")]
        assert len(pins) >= 2 + 5 * (name in REPLICATIONS)
        assert all(re.fullmatch("[0-9a-f]{40}", pin) for pin in pins)


def test_a_run_may_go_on_with_copies_elsewhere(tables: dict[str, str]) -> None:
    """What the copies hold is compared by their hashes."""
    path = RECIPES / "vibethinker_1p5b_1x80gb.yaml"
    others = ("rl-stem", "probe-stem", "probe-code", "gpqa", "traced", "aime26", "brumo25")  # of 3B
    known = [f"{key}={table}" for key, table in tables.items() if key.split(".")[2] not in others]
    here, there = (
        without_paths(what_matters(dump_resolved(load_recipe(path, local))))
        for local in ([], known)
    )
    assert here == there


def test_fine_tuning_reads_two_to_four_paths_of_every_mathematical_problem(
    tables: dict[str, str], tmp_path: Path
) -> None:
    """As the recipes say it, of which the first stage runs here."""
    whole = load_recipe(RECIPES / "vibethinker_1p5b_1x80gb.yaml")
    mix: Any = whole.data.traces["traces"]
    mathematics = mix.sets[0].model_dump(mode="json", exclude_defaults=True)
    mathematics["local"] = tables["data.traces.traces.sets.0.local"]
    stage = next(stage for stage in whole.stages if stage.kind == "sft")
    values = {
        "name": "paths",
        "model": {"source": "tiny", "vocab_size": 300, "max_position": 512},
        "data": {"traces": {"traces": mathematics}},
        "stages": [stage.model_dump(mode="json") | {"num_steps": 2, "sequences_per_step": 4}],
    }
    path = tmp_path / "paths.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    recipe = load_recipe(path)
    traces = load_traces(recipe.data.traces["traces"], {}, recipe_dir=tmp_path, seed=recipe.seed)
    counts = Counter(trace.problem_id for trace in traces)
    assert len(counts) == 8 and set(counts.values()) == {2, 3, 4}
    assert all("boxed{1}" in trace.messages[-1]["content"] for trace in traces)
    assert len({trace.messages[-1]["content"] for trace in traces}) == len(traces)
    run_pipeline(recipe, recipe_path=path, run_dir=tmp_path / "run")
    (directory,) = (tmp_path / "run" / "stages").iterdir()
    status = read_json(directory / "status.json")
    assert (status["num_sequences"], status["num_dropped"]) == (len(traces), 0)
    assert len(list(read_jsonl(directory / "steps.jsonl"))) == 2


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.filterwarnings("ignore:.*rows cannot be used and are left out")
def test_every_stage_runs_on_a_tiny_model_over_the_real_columns(
    name: str, tables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ScriptedModel(reply).play(monkeypatch)
    path = RECIPES / f"{name}.yaml"
    whole = load_recipe(path)
    known = {f"data.problems.{problems}." for problems in whole.data.problems}
    known |= {f"data.traces.{traces}." for traces in whole.data.traces}
    local = [f"{key}={value}" for key, value in tables.items() if key.startswith(tuple(known))]
    if name.startswith("vibethinker_3b"):  # the reference is a model from elsewhere
        tiny_policy(seed=1, max_position=4096).save(tmp_path / "reference")
        local.append(f"stages.filter.start_from={tmp_path / 'reference'}")
    recipe = load_recipe(path, [*small(whole), *local])
    run_dir, scored_by = tmp_path / "run", {}
    run_pipeline(recipe, recipe_path=path, run_dir=run_dir)
    for index, stage in enumerate(recipe.stages):
        directory = run_dir / "stages" / f"{index:02d}-{stage.name}"
        assert (directory / "status.json").exists(), stage.name
        if stage.kind in ("sft", "mgpo"):
            steps = list(read_jsonl(directory / "steps.jsonl"))
            assert len(steps) == NUM_STEPS
        if stage.kind == "mgpo":
            assert {step["metrics"]["reward/mean"] for step in steps} == {0.5}
            assert all(step["metrics"]["optimizer/grad_norm"] > 0 for step in steps)
        if stage.kind == "probe":
            probed = read_json(directory / "probe.json")
            assert set(probed["subdomains"]) == DOMAINS.get(name[:14], SUBDOMAINS)
        if stage.kind == "distill":
            assert {row["subdomain"] for row in read_jsonl(directory / "traces.jsonl")}
            scored_by[stage.name] = stage.student
        if isinstance(stage, SFTStage) and stage.name == "sft-distilled":
            assert {scored_by[teacher] for teacher in stage.traces} == {stage.start_from}
            distilled = [
                run_dir / "stages" / f"{n:02d}-{s.name}" for n, s in made_by(recipe, stage)
            ]
            num_traces = sum(len(list(read_jsonl(path / "traces.jsonl"))) for path in distilled)
            assert len(distilled) == 3
            assert read_json(directory / "status.json")["num_sequences"] == num_traces
    for row in read_json(run_dir / "summary.json")["results"]:
        expected = 0.5 if row["benchmark"] != "gpqa" else row["pass_at_1"]
        assert row["pass_at_1"] == expected, row["benchmark"]
    dropped = read_json(run_dir / "manifest.json")["decontamination"]
    trained_on = {f"problems/{stage.problems}" for stage in recipe.stages if stage.kind == "mgpo"}
    assert set(dropped) >= trained_on | {f"traces/{traces}" for traces in recipe.data.traces}
    assert (run_dir / "export" / "config.json").exists()
