"""Outputs and values compared by LiveCodeBench's rules."""

import time

import pytest

from vibelite.rewards.code_tests import output_difference, value_difference


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ("1\n2\n", "1\n2", ""),
        ("1\n2", "\n 1 \r\n2  \n\n", ""),
        ("1.0 2", "1.00  2.0", ""),
        ("100", "1e2", ""),
        ("-0", "0", ""),
        ("inf", "Infinity", ""),
        ("", " \n", ""),
        ("nan", "nan", ""),
        ("0." + "3" * 50, "0." + "3" * 50 + "0", ""),
        ("1\n2", "1\n\n2", "3 lines instead of 2"),
        ("1\n2", "1 2", "1 line instead of 2"),
        ("1\n2", "1\n3", "line 2 is '3' instead of '2'"),
        ("a b", "a  b", "line 1 is 'a  b' instead of 'a b'"),
        ("YES", "yes", "line 1 is 'yes' instead of 'YES'"),
        ("0.3333333", "0.3333334", "line 1 is '0.3333334' instead of '0.3333333'"),
        ("50000000000000000", "50000000000000001", "line 1 is '50000000000000001' instead of"),
        ("1 2", "1 2 3", "line 1 is '1 2 3' instead of '1 2'"),
        ("1", "nan", "line 1 is 'nan'"),
        ("1", "sNaN", "line 1 is 'sNaN'"),
        ("1", "1/1", "line 1 is '1/1'"),
        ("NaN", "nan", "line 1 is 'nan'"),
        ("a" * 50, "b", f"line 1 is 'b' instead of '{'a' * 40}...'"),
    ],
)
def test_outputs_and_what_is_said_of_them(expected: str, actual: str, difference: str) -> None:
    said = output_difference(expected, actual)
    assert said.startswith(difference) and bool(said) == bool(difference)


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ("5", b"5.0", ""),
        ("true", b"1", ""),
        ("[1, [2]]", b"[1,[2]]", ""),
        ('{"a": 1, "b": null}', b'{"b": null, "a": 1}', ""),
        ('"\\u00e9"', '"é"'.encode(), ""),
        ("Infinity", b"Infinity", ""),
        ("0", b"", "ended without a value"),
        ("0", b"null", "'null' instead of '0'"),
        ("5", b'"5"', "'\"5\"' instead of '5'"),
        ("[1, 2]", b"[2, 1]", "'[2, 1]' instead of '[1, 2]'"),
        ("0.3", b"0.30000000000000004", "'0.30000000000000004' instead of"),
        ("1", b"1 2", "not a value in JSON: '1 2'"),
        ("1", b"\xff\xfe", "not a value in JSON: "),
        ("1", b"[" * 100_000, "not a value in JSON: "),
        ("1", b"1" * 100_000, "not a value in JSON: "),
    ],
)
def test_values_and_what_is_said_of_them(expected: str, actual: bytes, difference: str) -> None:
    said = value_difference(expected, actual)
    assert said.startswith(difference) and bool(said) == bool(difference)


@pytest.mark.parametrize(
    ("expected", "actual", "tolerance", "is_equal"),
    [
        ("0.6", "0.59999999", 1e-6, True),
        ("0.6", "0.5999", 1e-6, False),
        ("2000000", "2000001", 1e-6, True),
        ("2000000", "2000003", 1e-6, False),
        ("1e-9", "0", 1e-6, True),
        ("answer 0.25", "answer 0.2500001", 1e-6, True),
        ("answer 0.25", "Answer 0.25", 1e-6, False),
        ("0.25", "0.25 0.25", 1e-6, False),
        ("1", "nan", 0.5, False),
        ("inf", "5", 0.5, False),
        ("5", "inf", 0.5, False),
        ("5", "5x", 0.5, False),
    ],
)
def test_numbers_within_the_tolerance_of_a_test_are_equal(
    expected: str, actual: str, tolerance: float, is_equal: bool
) -> None:
    assert (output_difference(f"x\n{expected}", f"x\n{actual}", tolerance) == "") is is_equal
    assert output_difference(expected, actual) != ""


def test_the_tolerance_holds_inside_values_and_not_for_their_shape() -> None:
    expected = '{"a": [1, 0.5], "b": "0.5"}'
    for actual, is_equal in [
        (b'{"a": [1.0000001, 0.5], "b": "0.5"}', True),
        (b'{"a": [1, 0.501], "b": "0.5"}', False),
        (b'{"a": [1, 0.5, 0.5], "b": "0.5"}', False),
        (b'{"a": [1, 0.5], "b": "0.5000001"}', False),
        (b'{"a": [1, 0.5]}', False),
        (b'{"a": [1, "0.5"], "b": "0.5"}', False),
    ]:
        assert (value_difference(expected, actual, 1e-6) == "") is is_equal, actual


@pytest.mark.parametrize("num_digits", [4_301, 50_000])
def test_integers_of_many_digits_are_values(num_digits: int) -> None:
    digits = "7" * num_digits
    assert value_difference(f"[{digits}]", f"[{digits}]".encode()) == ""
    assert value_difference(f"[{digits}]", f"[{digits[1:]}8]".encode()).endswith("...'")
    assert value_difference("1", b"7" * 50_001).startswith("not a value in JSON")


@pytest.mark.parametrize(
    "actual",
    ["1e999999999", "9" * 1_000_000, "1 " * 500_000, "1e-999999999 " * 10_000, "\n" * 2_000_000],
    ids=["exponent", "digits", "words", "exponents", "lines"],
)
def test_what_a_program_prints_cannot_make_comparing_slow(actual: str) -> None:
    started = time.process_time()
    assert output_difference("10\n" * 3, actual)
    assert output_difference("10e99999999", actual)
    assert time.process_time() - started < 2
