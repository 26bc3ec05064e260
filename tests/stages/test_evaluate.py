"""An evaluation's numbers by hand, and its samples after an interruption at any place."""

import json
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import vibelite.stages.sampling
from tests.policies import tiny_policy
from tests.scripted_model import Killed
from vibelite.commands.single_stage import one_engine, stage_context
from vibelite.errors import Interrupted, VibeLiteError
from vibelite.recipe.stage_section import EvaluateStage, Sampling
from vibelite.rewards.failures import failed
from vibelite.rewards.pool import VerifierPool
from vibelite.rewards.verifier import answer_key
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.run_dir import append_jsonl, read_jsonl
from vibelite.stages.context import StageContext
from vibelite.stages.evaluate import summarise
from vibelite.stages.sampling import SampleRequest, collect_samples, repair
from vibelite.telemetry.ledger import read_ledger
from vibelite.types import Completion, Problem, Verdict

NUM_SAMPLES = 4


def samples_of(
    name: str, subdomain: str, outcomes: list[bool | None], answers: list[str | None]
) -> list[dict[str, Any]]:
    return [
        {
            "problem_id": name,
            "subdomain": subdomain,
            "sample": number,
            "correct": correct,
            "answer": answer,
            "finish_reason": "stop" if answer else "length",
            "num_tokens": 3 + number,
        }
        for number, (correct, answer) in enumerate(zip(outcomes, answers, strict=True))
    ]


SAMPLES = [
    *samples_of("a", "algebra", [True, False, False, False], ["1", "2", "3", "3"]),
    *samples_of("b", "algebra", [True, True, True, False], ["1", "1", "1", "2"]),
    *samples_of("c", "number", [False, None, False, False], ["4", "5", None, None]),
    *samples_of("d", "number", [True, False, True, False], ["6", "7", "6", "7"]),
]


def enumerated(outcomes: list[bool], k: int) -> float:
    return fmean(any(chosen) for chosen in combinations(outcomes, k))


def test_summary_of_an_evaluation_by_hand() -> None:
    result = summarise(SAMPLES, [2, 8], num_bootstrap=500, seed=0)
    assert (result["num_problems"], result["num_samples"]) == (4, 4)
    assert result["pass_at_1"] == pytest.approx(6 / 16)
    pass_at_2 = [
        enumerated([True, False, False, False], 2),
        1.0,
        0.0,
        enumerated([True, False, True, False], 2),
    ]
    assert result["pass_at_k"] == pytest.approx({"2": fmean(pass_at_2)})  # no Pass@8 of 4
    assert result["truncated"] == pytest.approx(2 / 16)
    assert result["unverifiable"] == pytest.approx(1 / 16)
    assert result["mean_tokens"] == 4.5
    assert result["subdomains"]["number"] == {
        "num_problems": 2,
        "pass_at_1": pytest.approx(2 / 8),
        "pass_at_k": {"2": pytest.approx(fmean(pass_at_2[2:]))},
    }
    low, high = result["pass_at_1_ci"]
    assert 0 <= low < result["pass_at_1"] < high <= 1
    # (1/4 3/4 + 3/4 1/4 + 0 + 1/4) / 3, under the root, over 4 problems.
    assert result["pass_at_1_sampling_error"] == pytest.approx((0.625 / 3) ** 0.5 / 4)


def test_the_majority_by_hand() -> None:
    result = summarise(SAMPLES, [], num_bootstrap=500, seed=0)
    # a: "3" wins and is wrong; b is right; c: two wrong answers tie; d: a tie of right and wrong.
    assert result["cons_at_n"] == pytest.approx((0 + 1 + 0 + 0.5) / 4)
    assert result["num_ties"] == 2


def test_programs_have_no_majority() -> None:
    samples = [{k: v for k, v in sample.items() if k != "answer"} for sample in SAMPLES]
    result = summarise(samples, [], num_bootstrap=100, seed=0)
    assert result["cons_at_n"] is result["cons_at_n_ci"] is result["num_ties"] is None


def test_one_sample_each_tells_nothing_about_other_samples() -> None:
    firsts = [sample for sample in SAMPLES if sample["sample"] == 0]
    assert summarise(firsts, [1], num_bootstrap=100, seed=0)["pass_at_1_sampling_error"] is None


def test_problems_with_missing_samples_are_refused() -> None:
    with pytest.raises(AssertionError, match="unequal numbers"):
        summarise(SAMPLES[:-1], [1], num_bootstrap=100, seed=0)


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> SampleRequest:
    model = tmp_path_factory.mktemp("models") / "model"
    tiny_policy(seed=1).save(model)
    problems = [
        Problem(str(n), "sums", ({"role": "user", "content": f"What is {n} + 4?"},), "-1", "exact")
        for n in range(5)
    ]
    # Two chunks of the engine, and completions of different lengths.
    sampling = Sampling(max_new_tokens=12, max_sequences=12)
    return SampleRequest(model, problems, sampling, NUM_SAMPLES, seed=3)


@pytest.fixture
def context(request_: SampleRequest) -> Iterator[StageContext]:
    stage = EvaluateStage(kind="evaluate", benchmarks=["base"], sampling=request_.sampling)
    with one_engine() as opened, stage_context(stage, 0, opened=opened) as context:
        yield context


@pytest.fixture
def undisturbed(request_: SampleRequest, context: StageContext, tmp_path: Path) -> list[Any]:
    path = tmp_path / "undisturbed.jsonl"
    collect_samples(request_, path, context, {"key": "x"})
    return list(read_jsonl(path))


def test_every_sample_is_kept_in_order_with_its_text(
    undisturbed: list[Any], request_: SampleRequest
) -> None:
    places = [(row["problem_id"], row["sample"]) for row in undisturbed]
    assert places == [(p.id, n) for p in request_.problems for n in range(NUM_SAMPLES)]
    assert len({row["completion"] for row in undisturbed}) > 10
    assert {row["key"] for row in undisturbed} == {"x"}


@pytest.mark.parametrize("num_written", [1, 7, 13, 19])
def test_a_killed_evaluation_draws_only_what_is_missing_and_ends_the_same(
    num_written: int,
    undisturbed: list[Any],
    request_: SampleRequest,
    context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "samples.jsonl"
    written: list[Any] = []

    def append(target: Path, rows: list[Any]) -> None:
        if len(written) == num_written:
            raise Killed
        written.extend(rows)
        append_jsonl(target, rows)

    with monkeypatch.context() as patch:
        patch.setattr(vibelite.stages.sampling, "append_jsonl", append)
        with pytest.raises(Killed):
            collect_samples(request_, path, context, {"key": "x"})
    with open(path, "a") as file:
        file.write('{"problem_id": "4", "torn')
    context.meter.lap()
    collect_samples(request_, path, context, {"key": "x"})
    assert list(read_jsonl(path)) == undisturbed
    drawn_again = context.meter.lap().tokens["generated"]
    assert drawn_again == sum(row["num_tokens"] for row in undisturbed) - sum(
        row["num_tokens"] for row in written
    )


def test_a_finished_evaluation_does_not_even_load_the_model(
    undisturbed: list[Any], request_: SampleRequest, context: StageContext, tmp_path: Path
) -> None:
    gone = replace(request_, model=tmp_path / "no such model")
    samples = collect_samples(gone, tmp_path / "undisturbed.jsonl", context, {})
    assert [sample["num_tokens"] for sample in samples] == [
        row["num_tokens"] for row in undisturbed
    ]
    assert "completion" not in samples[0]


def test_a_request_to_stop_keeps_what_has_ended(
    request_: SampleRequest, context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter([None, None, Interrupted("stopped")])
    monkeypatch.setattr(vibelite.stages.sampling, "SECONDS_PER_QUESTION", 0)
    monkeypatch.setattr(context.recorder, "reason_to_stop", lambda: next(reasons))
    path = tmp_path / "samples.jsonl"
    with pytest.raises(Interrupted):
        collect_samples(request_, path, context, {})
    assert len(list(read_jsonl(path))) == 3
    assert read_ledger(context.run.ledger_path)[-1].details["samples"] == "3/20"


def test_a_torn_last_line_is_dropped_and_a_whole_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"b": ')
    repair(path)
    assert path.read_text() == '{"a": 1}\n'
    repair(path)
    assert json.loads(path.read_text()) == {"a": 1}
    repair(tmp_path / "none")


CHOICE = "Which is a prime?\n\nA. {}\nB. 4\nC. 6\nD. 8\n\nPut your choice letter in \\boxed{{}}."


def choice_request(request: SampleRequest, num_samples: int) -> SampleRequest:
    problems = [
        Problem(f"q{n}", "all", ({"role": "user", "content": CHOICE.format(n)},), "A", "choice")
        for n in (2, 3, 5)
    ]
    return replace(request, problems=problems, num_samples=num_samples)


def test_every_sample_of_a_choice_has_its_own_order_and_resumes_with_it(
    request_: SampleRequest, context: StageContext, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    request = choice_request(request_, num_samples=16)
    samples = collect_samples(request, path, context, {})
    rows = list(read_jsonl(path))
    orders = {tuple(row["permutation"]) for row in rows}
    assert len(orders) > 12
    for row in rows:
        shown = "ABCD"[row["permutation"].index(0)]
        assert f"{shown}. {row['problem_id'].removeprefix('q')}\n" in row["prompt"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[5:20]))
    assert collect_samples(request, path, context, {}) == samples
    assert list(read_jsonl(path)) == rows


def test_a_policy_that_always_says_a_scores_one_quarter(
    request_: SampleRequest, context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gold stands at A in the file, as in the public file of GPQA."""

    def always_a(self: Any, prompts: Any, settings: Any, *, seed: int, skip: Any) -> Iterator[Any]:
        for prompt in range(len(prompts)):
            yield prompt, 0, Completion((1, 2), (0.0, 0.0), "stop", "So \\boxed{A}")

    monkeypatch.setattr(TransformersEngine, "stream", always_a)
    request = choice_request(request_, num_samples=400)
    samples = collect_samples(request, tmp_path / "samples.jsonl", context, {})
    result = summarise(samples, [1], num_bootstrap=100, seed=0)
    assert result["letters"] == {"A": 1.0}
    assert result["pass_at_1"] == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1200) ** 0.5)
    # Votes are for options: the same letter is another option in every sample.
    votes = dict.fromkeys("ABCD", 0)
    for sample in samples:
        votes[sample["answer"]] += 1
    assert min(votes.values()) > 230


def test_too_many_failures_of_the_verifier_stop_and_are_verified_again(
    request_: SampleRequest, context: StageContext, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"

    class Broken(VerifierPool):
        def submit(self, problem: Problem, completion: Completion) -> Future[Verdict]:
            future: Future[Verdict] = Future()
            future.set_result(failed("crash", "gone"))
            return future

    with pytest.raises(VibeLiteError, match="20 of 20 completions could not be verified"):
        collect_samples(request_, path, replace(context, verifiers=Broken()), {})
    assert len(list(read_jsonl(path))) == 20
    samples = collect_samples(request_, path, context, {})
    assert summarise(samples, [1], num_bootstrap=100, seed=0)["verifier_failures"] == 0


@pytest.mark.parametrize(
    ("verifier", "text", "key"),
    [
        ("math", "so \\boxed{\\frac{2}{4}}", "1/2"),
        ("math", "so \\boxed{0.50}", "1/2"),
        ("math", "<think>\\boxed{3}</think> \\boxed{025}", "25"),
        ("math", "so \\boxed{\\sqrt{2}}", "\\sqrt{2}"),
        ("math", "so 7", None),
        ("procedural", "it is 7", "7"),
        ("choice", "\\boxed{b}", "D"),
        ("choice", "\\boxed{maybe}", None),
    ],
)
def test_a_vote_is_for_what_an_answer_means(verifier: str, text: str, key: str | None) -> None:
    problem = Problem("1", "all", (), "1", verifier, metadata={"permutation": [2, 3, 0, 1]})
    assert answer_key(problem, Completion((1,), (0.0,), "stop", text)) == key
    assert answer_key(problem, Completion((1,), (0.0,), "length", text)) is None
