"""The first and the last evaluated model on the same problems."""

from vibelite.report.answers import NUM_SHOWN, AnswerBook

RESULTS = [{"benchmark": "held-out", "stage": name} for name in ("base", "sft", "mgpo", "gone")]
KEYS = {"base": "base", "sft": "stages-00-sft", "mgpo": "stages-01-mgpo"}


def row(model: str, problem: int, completion: str) -> dict[str, str]:
    return {"key": f"held-out--{model}", "problem_id": f"p{problem}", "completion": completion}


def test_first_samples_of_evenly_spaced_problems_of_the_first_and_last_model():
    book = AnswerBook(RESULTS, KEYS)
    rows = [
        row(model, problem, f"{model} {problem} {sample}")
        for model in KEYS.values()
        for problem in range(100)
        for sample in range(2)
    ]
    rows += [row("base", 200, "of one model alone"), {"step": 3, "completion": "of training"}]
    assert list(book.noting(iter(rows))) == rows, "others read them too"
    (answers,) = book.answers
    assert answers.names == ("base", "mgpo")
    pairs = answers.pairs()
    assert len(pairs) == NUM_SHOWN
    for first, last in pairs:
        number = first["problem_id"][1:]
        assert first["completion"] == f"base {number} 0"
        assert last["completion"] == f"stages-01-mgpo {number} 0"
    assert (pairs[0][0]["problem_id"], pairs[-1][0]["problem_id"]) == ("p0", "p99")


def test_one_model_has_nothing_beside_it():
    assert AnswerBook(RESULTS[:1], KEYS).answers == []
