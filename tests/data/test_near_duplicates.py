"""Near-duplicates: similar texts are found, and the bands miss few of them."""

import random

import pytest

from vibelite.data.near_duplicates import NUM_PERMUTATIONS, NearDuplicates, num_bands
from vibelite.errors import DataError


def words(number: int, seed: int) -> list[str]:
    return random.Random(seed).choices([f"w{n}" for n in range(5000)], k=number)


def test_a_text_with_a_few_other_words_is_found_and_others_are_not() -> None:
    pytest.importorskip("rensa")
    similar = NearDuplicates(0.8)
    texts = [words(200, seed) for seed in range(50)]
    for number, text in enumerate(texts):
        assert similar.find_or_add(str(number), " ".join(text)) is None
    for number, text in enumerate(texts):
        changed = [*text[:100], "new", *text[100:]]  # 4 of 196 shingles go, 5 come: J = 0.955
        found = similar.find_or_add("copy", " ".join(changed).upper())
        assert found is not None and found[0] == str(number)
        assert found[1] == pytest.approx(192 / 201, abs=0.1)
    half = [*texts[0][:100], *words(100, 99)]
    assert similar.find_or_add("half", " ".join(half)) is None


def test_results_are_the_same_in_every_process() -> None:
    pytest.importorskip("rensa")
    first, second = NearDuplicates(0.5), NearDuplicates(0.5)
    for similar in (first, second):
        similar.add("a", " ".join(words(50, 0)))
    text = " ".join(words(50, 0)[:40])
    assert first.find_or_add("b", text) == second.find_or_add("b", text)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95])
def test_the_bands_miss_few_pairs_at_the_threshold(threshold: float) -> None:
    bands = num_bands(threshold)
    rows = NUM_PERMUTATIONS // bands
    assert bands * rows == NUM_PERMUTATIONS
    assert (1 - threshold**rows) ** bands <= 1e-3


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(DataError, match=r"pip install 'vibelite\[dedup\]'"):
        NearDuplicates(0.8)
