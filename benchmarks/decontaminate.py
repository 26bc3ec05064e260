"""How fast decontamination is, what it needs of memory, what it finds and what it drops wrongly.

    python benchmarks/decontaminate.py DIRECTORY_WITH_BENCHMARK_FILES --rows 1000000

Generates prompts from templates with random numbers, names and standard phrases of competition
problems, each with the answer-format sentence of a benchmark; none of them is an evaluation
problem. Into some it plants evaluation problems: whole, in half, or 20 words of one, respelled
(case, punctuation removed, replaced or doubled, line breaks) and with other text around them. Then
runs `vibelite decontaminate` on them as a process of its own and compares what it dropped with what
was planted.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import resource
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vibelite.data.decontaminate import EvaluationItem, build_index
from vibelite.data.normalise import without_instructions
from vibelite.telemetry.manifest import describe_hardware
from vibelite.tools.decontaminate import read_items

RESULT = Path(__file__).parent / "results" / "decontaminate.json"
NAMES = ("Ana", "Bela", "Chen", "Dara", "Emil", "Fay", "Goran", "Hana", "Ivo", "Jun")
THINGS = ("apples", "marbles", "coins", "tickets", "books", "tiles", "stamps", "cards", "beads")
SETTINGS = (
    "{name} has {a} {things} and gives {b} of them to {other}, who then has {c} {things}.",
    "A train covers {a} kilometers in {b} minutes and waits {c} minutes at every station.",
    "In a bag there are {a} red, {b} blue and {c} green {things}, drawn without replacement.",
    "Let $ABC$ be a triangle with $AB = {a}$, $BC = {b}$ and $CA = {c}$, and let $M$ be the"
    " midpoint of $BC$.",
    "Let $f(x) = {a}x^2 - {b}x + {c}$ for every real number $x$, and let $g(x) = f(f(x))$.",
    "A sequence begins with $a_1 = {a}$ and satisfies $a_{{n+1}} = {b}a_n + {c}$ for all"
    " $n \\ge 1$.",
    "{name} and {other} toss a fair coin {a} times, and {name} wins if at least {b} heads show up.",
    "A rectangular box with integer sides has volume {a} and surface area {b}; one side is {c}.",
    "The numbers from the set {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} are written on {things} in a row.",
    "A chemist mixes {a} ml of a {b}% solution with {c} ml of pure water at room temperature.",
)
TASKS = (
    "Find the number of positive integers $n \\le {a}$ such that $n^{b}$ leaves remainder {c}.",
    "What is the greatest possible value of the sum of the {b} largest {things}, in terms of {a}?",
    "The probability can be written as $\\frac{{m}}{{n}}$, where $m$ and $n$ are relatively prime"
    " positive integers. Find $m+n$.",
    "The area can be expressed as $a\\sqrt{{b}}$, where $b$ is not divisible by the square of any"
    " prime. Find $a+b$.",
    "How many {things} are left after {a} days if {name} loses {b} of them every {c} days?",
    "Determine the remainder when the product of all such values is divided by {a}.",
    "Which of the following options is correct?\nA. {a}\nB. {b}\nC. {c}\nD. none of these",
)
FORMATS = (
    "Let's think step by step and output the final answer within \\boxed{}.",
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Please reason step-by-step and put your choice letter without any other text with \\boxed{}"
    " in the end.",
    "",
)
WORDS_PLANTED = 20


def unrelated(draw: random.Random) -> str:
    """A problem of three to five sentences with its answer format, about 70 words."""
    parts = [*draw.sample(SETTINGS, draw.randint(2, 4)), draw.choice(TASKS)]
    values = {
        "name": draw.choice(NAMES),
        "other": draw.choice(NAMES),
        "things": draw.choice(THINGS),
    }
    numbers = [{key: draw.randint(2, 9999) for key in "abc"} for _ in parts]
    sentences = [part.format(**values, **n) for part, n in zip(parts, numbers, strict=True)]
    return " ".join([*sentences, draw.choice(FORMATS)])


def respelled(text: str, draw: random.Random) -> str:
    """`text` with another case, other punctuation and other line breaks."""
    case = draw.choice([str.upper, str.lower, str.title, str.swapcase])
    punctuation = draw.choice(
        [
            {},
            {ord(sign): None for sign in string.punctuation},
            {ord(sign): " " for sign in string.punctuation},
            {ord(","): " --", ord("."): "!?", ord("$"): "", ord("-"): "\u2013"},
        ]
    )
    blanks = draw.choice(["\n", " \n", "\t", "\r\n", "\u00a0"])
    words = case(text).translate(punctuation).split()
    return "".join(word + (blanks if draw.random() < 0.2 else " ") for word in words)


def planted(texts: list[str], own: list[str], draw: random.Random) -> str:
    """An evaluation problem, a half, or a few words of one of `own`, respelled, inside another."""
    part = draw.choice(["whole", "half", "few"])
    words = without_instructions(draw.choice(own if part == "few" else texts)).split()
    if part == "half":
        words = words[: max(WORDS_PLANTED, len(words) // 2)]
    if part == "few":
        start = draw.randrange(max(1, len(words) - WORDS_PLANTED))
        words = words[start : start + WORDS_PLANTED]
    around = unrelated(draw).split()
    cut = draw.randrange(len(around))
    return " ".join([*around[:cut], respelled(" ".join(words), draw), *around[cut:]])


def rows(num_rows: int, num_planted: int, texts: list[str], seed: int) -> Iterator[dict[str, Any]]:
    """`num_rows` rows; `num_planted` of them, at random places, have "planted" in their id."""
    draw = random.Random(seed)
    own = with_own_words(texts)
    places = set(draw.sample(range(num_rows), num_planted))
    for number in range(num_rows):
        is_planted = number in places
        content = planted(texts, own, draw) if is_planted else unrelated(draw)
        yield {
            "id": f"{'planted' if is_planted else 'unrelated'}-{number}",
            "messages": [{"role": "user", "content": content}],
        }


def with_own_words(texts: list[str]) -> list[str]:
    """Those of `texts` of which every run of WORDS_PLANTED words is evidence: what several
    evaluation problems have in common is none by definition.
    """
    index = build_index([EvaluationItem("", str(n), text) for n, text in enumerate(texts)])
    chosen = []
    for text in texts:
        words = without_instructions(text).split()
        runs = range(max(1, len(words) - WORDS_PLANTED + 1))
        parts = [" ".join(words[start : start + WORDS_PLANTED]) for start in runs]
        if all(index.find(part) for part in parts):
            chosen.append(text)
    return chosen


def measure(train: Path, files: list[Path], directory: Path) -> dict[str, Any]:
    """Runs the command; its report with seconds, processor seconds and peak memory in bytes."""
    report = directory / "report.json"
    against = [argument for file in files for argument in ("--against", str(file))]
    command = [sys.executable, "-m", "vibelite", "decontaminate", str(train), *against]
    options = ["-o", str(directory / "clean.jsonl"), "--report", str(report), "--json"]
    start = time.perf_counter()
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_bytes": usage.ru_maxrss * 1024,
        "report": json.loads(report.read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and accuracy of decontamination.")
    parser.add_argument("directory", type=Path, help="where the evaluation .parquet files are")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--planted", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    files = sorted(arguments.directory.glob("*.parquet"))
    items = [item for file in files for item in read_items(file)]
    texts = [item.text for item in items]
    with TemporaryDirectory(prefix="vibelite-") as name:
        train = Path(name) / "train.jsonl"
        num_words = 0
        with open(train, "w", encoding="utf-8") as file:
            for row in rows(arguments.rows, arguments.planted, texts, arguments.seed):
                num_words += len(re.findall(r"\S+", row["messages"][0]["content"]))
                file.write(json.dumps(row) + "\n")
        num_bytes = train.stat().st_size
        measured = measure(train, files, Path(name))
    dropped = {row["id"] for row in measured["report"]["dropped"]}
    num_found = sum(name.startswith("planted-") for name in dropped)
    result = {
        "rows": arguments.rows,
        "words_per_row": round(num_words / arguments.rows, 1),
        "input_bytes": num_bytes,
        "evaluation_items": len(items),
        "seconds": measured["seconds"],
        "processor_seconds": measured["processor_seconds"],
        "peak_bytes": measured["peak_bytes"],
        "planted": arguments.planted,
        "planted_found": num_found,
        "unrelated": arguments.rows - arguments.planted,
        "dropped_wrongly": len(dropped) - num_found,
        "examples_dropped_wrongly": [
            row for row in measured["report"]["dropped"] if row["id"].startswith("unrelated-")
        ][:5],
        "missed": arguments.planted - num_found,
        "hardware": describe_hardware(),
        "python": platform.python_version(),
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
