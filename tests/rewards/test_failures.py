"""What keeps a verifier from a verdict: counted by kind, named with its place, and never silent."""

from pathlib import Path
from typing import Any, cast

import pytest

from tests.policies import tiny_policy
from vibelite.errors import VibeLiteError
from vibelite.recipe.data_section import Data
from vibelite.recipe.run_section import Budget, Cost, Verification
from vibelite.rewards.failures import count_failures, describe, failed, require_reliable
from vibelite.rewards.pool import VerifierPool
from vibelite.rollout.engine import SamplingSettings
from vibelite.run_dir import StageDir, read_jsonl
from vibelite.stages.context import StageContext
from vibelite.stages.mgpo_metrics import rollout_metrics
from vibelite.stages.rollout import sample_groups, sample_rows
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules
from vibelite.types import Completion, Problem, Verdict

REWARDS = Path(__file__).with_name("rewards_of_tests.py")
FAULTS = ("never_ends", "ends_the_process", "raises", "returns_nan")
FUNCTIONS = (*FAULTS, "length_of_text", "length_of_text")


class OneWordEngine:
    """Every completion is ten letters, which the function length_of_text has for correct."""

    def stream(self, prompts: Any, settings: SamplingSettings, *, seed: int, skip: Any) -> Any:
        for prompt in range(len(prompts)):
            for sample in range(settings.num_completions):
                yield prompt, sample, Completion((7,), (-0.5,), "stop", "x" * 10)


def context_of(tmp_path: Path, max_failure_rate: float, pool: VerifierPool) -> StageContext:
    class Recipe:
        data, seed = Data(), 0
        verification = Verification(max_failure_rate=max_failure_rate)

    stage_dir, meter = StageDir(tmp_path), Meter()
    stop = StopRules(Budget(), Spending(Cost(), tmp_path / "ledger"))
    recorder = Recorder("mgpo", stage_dir, meter, stop)
    return StageContext(
        cast(Any, Recipe()), tmp_path, cast(Any, None), "mgpo", stage_dir, meter, recorder,
        verifiers=pool,
    )  # fmt: skip


def problems() -> list[Problem]:
    return [
        Problem(
            f"{place}-{function}", "s", ({"role": "user", "content": "?"},), "", "custom",
            metadata={"reward_file": str(REWARDS), "reward_function": function},
        )
        for place, function in enumerate(FUNCTIONS)
    ]  # fmt: skip


def test_planted_faults_are_counted_by_kind_in_steps_samples_and_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with VerifierPool(num_workers=1, seconds=1.0) as pool:
        context = context_of(tmp_path, 0.7, pool)
        groups = sample_groups(
            cast(Any, OneWordEngine()), tiny_policy(), problems(), SamplingSettings(1, 8),
            context=context, seed=0,
        )  # fmt: skip
    assert [group.pass_rate for group in groups] == [0, 0, 0, 0, 1, 1]
    context.recorder.record_samples(1, sample_rows(groups))
    context.recorder.record_step(1, rollout_metrics(groups, [1.0] * len(groups)))
    (step,) = read_jsonl(tmp_path / "steps.jsonl")
    counts = {
        key: value for key, value in step["metrics"].items() if key.startswith("verify/failures")
    }
    assert counts == {
        "verify/failures_timeout": 1,
        "verify/failures_crash": 1,
        "verify/failures_exception": 2,
    }
    rows = list(read_jsonl(tmp_path / "samples.jsonl"))
    assert [row.get("failure") for row in rows] == [
        "timeout", "crash", "exception", "exception", None, None,
    ]  # fmt: skip
    assert [row["correct"] for row in rows] == [None] * 4 + [True] * 2
    console = capsys.readouterr().err
    assert "verifier timeouts 1  verifier crashes 1  verifier exceptions 2" in console


def test_more_failures_than_the_recipe_allows_end_the_run_with_the_first_of_them(
    tmp_path: Path,
) -> None:
    with VerifierPool(num_workers=1, seconds=1.0) as pool:
        context = context_of(tmp_path, 0.02, pool)
        with pytest.raises(VibeLiteError) as caught:
            sample_groups(
                cast(Any, OneWordEngine()), tiny_policy(), problems()[1:], SamplingSettings(1, 8),
                context=context, seed=0,
            )  # fmt: skip
    message = str(caught.value)
    assert "3 of 5 completions could not be verified (1 crash, 2 exception)" in message
    assert "allows a share of 0.02 (verification.max_failure_rate)" in message
    assert "The first: crash: the verifier's process ended with SIGSEGV" in message


def test_the_share_that_is_allowed_is_allowed() -> None:
    fine, bad = Verdict(1.0, True), failed("crash", "SIGSEGV")
    require_reliable([fine] * 98 + [bad] * 2, 0.02)
    with pytest.raises(VibeLiteError, match="3 of 100 completions"):
        require_reliable([fine] * 97 + [bad] * 3, 0.02)
    with pytest.raises(VibeLiteError, match="1 of 1 completions"):
        require_reliable([bad], 0.0)
    require_reliable([], 0.0)


def test_answers_that_cannot_be_judged_are_no_failures() -> None:
    unverifiable = Verdict(0.0, None, "unverifiable: a power in an exponent")
    assert set(count_failures([unverifiable] * 5).values()) == {0}
    require_reliable([unverifiable] * 5, 0.0)


def test_an_error_is_described_in_one_line_with_its_place() -> None:
    def raise_it() -> None:
        raise ValueError("two\nlines " + "x" * 500)

    with pytest.raises(ValueError) as caught:
        raise_it()
    text = describe(caught.value)
    assert text.startswith("ValueError: two lines xxx")
    assert "\n" not in text
    assert "(test_failures.py:" in text
    assert len(text) < 400
