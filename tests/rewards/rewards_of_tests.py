"""Rewards as users write them, for the tests of custom rewards: each ends in its own way."""

import os
import sys
import time

from vibelite.types import Verdict

WITHOUT_TYPE = "good"


def length_of_text(problem, text):
    return len(text) / 10


def letters_in_answer(problem, text):
    found = sum(letter in text for letter in problem.answer)
    return Verdict(found / len(problem.answer), None, f"{found} letters")


def never_ends(problem, text):
    while True:
        time.sleep(0.01)


def ends_the_process(problem, text):
    os.kill(os.getpid(), 11)


def exits(problem, text):
    sys.exit(3)


def raises(problem, text):
    raise KeyError("nothing\nhere")


def returns_text(problem, text):
    return "1.0"


def returns_nan(problem, text):
    return float("nan")


def says_when(problem, text):
    """The detail is when it began and when it ended, in seconds on the machine's clock."""
    began = time.monotonic()
    time.sleep(0.3)
    return Verdict(1.0, True, f"{began} {time.monotonic()}")


def leaves_a_child(problem, text):
    """The child's process id is in the detail; it sleeps longer than any test."""
    if child := os.fork():
        with open(text, "w") as file:
            file.write(str(child))
    time.sleep(60)


def knows_torch(problem, text):
    return float("torch" in sys.modules)
