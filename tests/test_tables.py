"""The plain tables of single commands, letter by letter."""

from typing import Any

from vibelite.tables import evaluation_table

RESULT: dict[str, Any] = {
    "num_problems": 3,
    "num_samples": 4,
    "pass_at_1": 0.5,
    "pass_at_1_ci": [0.25, 0.75],
    "pass_at_1_sampling_error": 0.0123,
    "pass_at_k": {"4": 1.0},
    "cons_at_n": None,
    "subdomains": {"number": {"num_problems": 3, "pass_at_1": 0.5, "pass_at_k": {"4": 1.0}}},
    "truncated": 0.125,
    "unverifiable": 0.0,
    "verifier_failures": 0,
    "mean_tokens": 10.25,
    "data": {"sha256": "0123456789abcdef0123", "num_problems": 3},
}


def test_the_evaluation_table_shows_the_interval_and_what_it_was_measured_on() -> None:
    assert evaluation_table("model on gcd", RESULT) == (
        "model on gcd\n"
        "sub-domain  problems  Pass@1    95% interval  Pass@4\n"
        "----------  --------  ------  --------------  ------\n"
        "all                3   0.500  0.250 to 0.750   1.000\n"
        "4 samples per problem, so Pass@1 is avg@4, other samples would change it by 0.012\n"
        "12.5% cut off, 0.0% unverifiable, 10.2 tokens on average\n"
        "3 problems, sha256 0123456789abcdef"
    )


def test_several_sub_domains_have_a_row_each() -> None:
    part = RESULT["subdomains"]["number"]
    lines = evaluation_table("", RESULT | {"subdomains": {"a": part, "b": part}}).splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["a", "b", "all"]


def test_a_benchmark_shows_its_window_its_majority_its_letters_and_published_scores() -> None:
    more = {
        "cons_at_n": 0.625,
        "cons_at_n_ci": [0.5, 0.75],
        "num_ties": 2,
        "letters": {"A": 0.25, "none": 0.75},
        "data": {
            **RESULT["data"],
            "name": "LiveCodeBench v6",
            "official_num_problems": 131,
            "window": ["2025-02-01", "2025-05-01"],
            "from": "lcb.jsonl",
        },
        "published": {"source": "a report", "pass_at_1": {"small": 0.25, "large": 0.5}},
    }
    assert evaluation_table("", RESULT | more).splitlines()[5:] == [
        "cons@4 0.625 (0.500 to 0.750), the majority of the answers; 2 problems with a tie count "
        "in part",
        "12.5% cut off, 0.0% unverifiable, 10.2 tokens on average",
        "letters chosen: A 25.0%, none 75.0%",
        "LiveCodeBench v6: 3 of 131 problems, sha256 0123456789abcdef, from lcb.jsonl, contests of "
        "2025-02-01 to 2025-05-01",
        "published Pass@1, a report:",
        "  0.500  large",
        "  0.250  small",
    ]
