"""Words without case, punctuation and layout."""

import pytest

from vibelite.data.normalise import without_instructions, word_forms


@pytest.mark.parametrize(
    ("text", "split", "joined"),
    [
        ("A 9-km\n Walk!", "a 9 km walk", "a 9km walk"),
        ("x_1 + y^2", "x 1 y 2", "x1 y2"),
        ("Let's go", "let s go", "lets go"),
        ("na\u00efve \uff21\uff22\u00b2", "naive ab2", "naive ab2"),
        ("stra\u00dfe\u2014weg", "strasse weg", "strasseweg"),
        ("ki\u200blo", "ki lo", "kilo"),
        ("", "", ""),
        ("?!", "", ""),
    ],
)
def test_punctuation_is_a_space_in_one_form_and_nothing_in_the_other(
    text: str, split: str, joined: str
) -> None:
    forms = [" ".join(words) for words in word_forms(text)]
    assert forms == ([split] if split == joined else [split, joined])


def test_plain_and_unicode_text_are_treated_alike() -> None:
    text = "A 9-km walk, f(x)=x_1 + \\frac{1}{2}; isn't it?\tYes."
    # The added letter sends the same text down the path for characters beyond ASCII.
    for plain, other in zip(word_forms(text), word_forms(text + " \u0434"), strict=True):
        assert [*plain, "\u0434"] == other


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("What is 1+1? Put the answer in \\boxed{ }.", "What is 1+1?"),
        ("Find x.\n\nLet's think step by step and so on.", "Find x.\n\n"),
        ("Put your final answer last!\nFind x.", "\nFind x."),
        ("The box \\boxed{7} is full.", "The box \\boxed{7} is full."),
    ],
)
def test_sentences_about_the_form_of_the_answer_are_left_out(text: str, kept: str) -> None:
    assert without_instructions(text) == kept
