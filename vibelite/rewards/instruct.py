"""Instructions that a rule can check: counts, keywords, order, format and length of an answer
(VibeThinker-3B report 2.2, "Instruct RL").

A problem's metadata holds its rules, each an object with the rule's name and its settings:

    {"rule": "words", "min": 20, "max": 60}        also characters, lines, sentences, paragraphs,
                                                   bullets
    {"rule": "count", "text": "data", "min": 2}    occurrences of a text
    {"rule": "keywords", "all": [...], "none": [...]}
    {"rule": "order", "texts": ["first", "then"]}  each after the one before
    {"rule": "starts", "text": "Dear"}             also ends
    {"rule": "format", "as": "json"}               or lowercase, uppercase, one_line, no_comma

Nothing depends on a language: letters, words and sentence ends are Unicode's; texts are compared
without case. Only what follows the thinking is read. Everything takes time linear in the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.answer_text import after_thinking
from vibelite.types import Problem, Verdict

RULES = "rules"
FORMATS = ("json", "lowercase", "uppercase", "one_line", "no_comma")
COUNTED = ("words", "characters", "lines", "sentences", "paragraphs", "bullets")

# Settings of each rule: name -> (needed, possible).
SETTINGS: dict[str, tuple[set[str], set[str]]] = {
    **{name: (set(), {"min", "max"}) for name in COUNTED},
    "count": ({"text"}, {"text", "min", "max"}),
    "keywords": (set(), {"all", "none"}),
    "order": ({"texts"}, {"texts"}),
    "starts": ({"text"}, {"text"}),
    "ends": ({"text"}, {"text"}),
    "format": ({"as"}, {"as"}),
}
# Latin, Greek, Arabic, Devanagari, Chinese and Japanese sentence ends; a run of them is one end.
_SENTENCE_END = re.compile(r"[.!?\u037e\u061f\u0964\u3002\uff01\uff1f]+(?=\s|$|[^\x00-\x7f])")
_BULLET = re.compile(r"^[^\S\n]*(?:[-*+\u2022]|\d{1,3}[.)])\s+\S", re.MULTILINE)
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
# Chinese and Japanese are written without spaces: each character counts as a word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['\u2019-]\w+)*"
)


def check_instructions(problem: Problem, text: str) -> Verdict:
    """Correct where every rule of the problem holds; otherwise the detail names those broken."""
    final = after_thinking(text)
    if final is None:
        return Verdict(0.0, False, "unclosed <think>")
    answer = final.strip()
    if not answer:
        return Verdict(0.0, False, "no answer")
    broken = [describe(rule) for rule in problem.metadata[RULES] if not holds(rule, answer)]
    if broken:
        return Verdict(0.0, False, f"broken: {'; '.join(broken)}"[:200])
    return Verdict(1.0, True, "correct")


def holds(rule: Mapping[str, Any], answer: str) -> bool:
    """Whether one rule, as `read_rules` returned it, holds for a non-empty answer."""
    folded = answer.casefold()
    match rule["rule"]:
        case "count":
            return _within(rule, len(_find_all(rule["text"].casefold(), folded)))
        case "keywords":
            return all(_find_all(word.casefold(), folded) for word in rule.get("all", [])) and not (
                any(_find_all(word.casefold(), folded) for word in rule.get("none", []))
            )
        case "order":
            return _in_order([text.casefold() for text in rule["texts"]], folded)
        case "starts":
            return folded.startswith(rule["text"].casefold())
        case "ends":
            return folded.endswith(rule["text"].casefold())
        case "format":
            return _has_format(rule["as"], answer)
        case counted:
            return _within(rule, _count(counted, answer))


def read_rules(value: Any) -> list[dict[str, Any]]:
    """The rules of a row: a list of objects, or its JSON text.

    Raises DataError that says which rule cannot be checked, and why.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"rules are not valid JSON ({error})") from error
    if not isinstance(value, list) or not value:
        raise DataError("rules must be a list of one rule or more")
    for number, rule in enumerate(value, start=1):
        try:
            _check_rule(rule)
        except DataError as error:
            raise DataError(f"rule {number}: {error}") from error
    # What a table's columns add to a rule that does not have them is left out.
    return [{key: held for key, held in rule.items() if held is not None} for rule in value]


def describe(rule: Mapping[str, Any]) -> str:
    """A rule in a few words: words (min 20, max 60)."""
    settings = ", ".join(f"{key} {value}" for key, value in rule.items() if key != "rule")
    return f"{rule['rule']} ({settings})" if settings else rule["rule"]


def _check_rule(rule: Any) -> None:
    if not isinstance(rule, dict) or rule.get("rule") not in SETTINGS:
        found = rule.get("rule") if isinstance(rule, dict) else rule
        raise DataError(f"{str(found)[:60]!r} is none of {', '.join(SETTINGS)}")
    name = rule["rule"]
    needed, possible = SETTINGS[name]
    given = {key for key, value in rule.items() if key != "rule" and value is not None}
    if missing := needed - given:
        raise DataError(f"{name} needs {', '.join(sorted(missing))}")
    if unknown := given - possible:
        raise DataError(f"{name} has no {', '.join(sorted(unknown))}")
    if not given:
        raise DataError(f"{name} needs {' or '.join(sorted(possible))}")
    for key in given:
        _check_setting(name, key, rule[key])


def _check_setting(name: str, key: str, value: Any) -> None:
    match key:
        case "min" | "max":
            is_right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            wanted = "a whole number"
        case "text":
            is_right, wanted = _is_text(value), "a text"
        case "as":
            is_right, wanted = value in FORMATS, f"one of {', '.join(FORMATS)}"
        case _:
            is_right = isinstance(value, list) and bool(value) and all(map(_is_text, value))
            wanted = "a list of texts"
    if not is_right:
        raise DataError(f"{name}: {key} must be {wanted}, found {str(value)[:60]!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _within(rule: Mapping[str, Any], count: int) -> bool:
    return rule.get("min", 0) <= count <= rule.get("max", count)


def _count(what: str, answer: str) -> int:
    match what:
        case "words":
            return len(_WORD.findall(answer))
        case "characters":
            return len(answer)
        case "lines":
            return sum(bool(line.strip()) for line in answer.splitlines())
        case "paragraphs":
            return sum(bool(part.strip()) for part in _PARAGRAPH_BREAK.split(answer))
        case "bullets":
            return len(_BULLET.findall(answer))
        case "sentences":
            ends = [match.end() for match in _SENTENCE_END.finditer(answer)]
            is_open = bool(answer[ends[-1] if ends else 0 :].strip())
            return len(ends) + is_open
    raise AssertionError(what)


def _find_all(text: str, folded: str) -> list[int]:
    """Where `text` stands in `folded`; a letter or digit at its end must end a word there."""
    before = r"(?<![^\W_])" if _is_spaced(text[0]) else ""
    after = r"(?![^\W_])" if _is_spaced(text[-1]) else ""
    return [match.start() for match in re.finditer(before + re.escape(text) + after, folded)]


def _is_spaced(character: str) -> bool:
    """Whether words of this character's script are set apart by spaces."""
    return character.isalnum() and not re.match(r"[\u3040-\u30ff\u3400-\u9fff]", character)


def _in_order(texts: Sequence[str], folded: str) -> bool:
    """Whether the texts occur one after the other, each behind the end of the one before."""
    position = 0
    for text in texts:
        places = [place for place in _find_all(text, folded) if place >= position]
        if not places:
            return False
        position = places[0] + len(text)
    return True


def _has_format(name: str, answer: str) -> bool:
    match name:
        case "json":
            return _is_json(answer)
        case "lowercase":
            return answer == answer.lower()
        case "uppercase":
            return answer == answer.upper()
        case "one_line":
            return "\n" not in answer
        case "no_comma":
            return not any(comma in answer for comma in ",\u060c\u3001\uff0c")
    raise AssertionError(name)


def _is_json(answer: str) -> bool:
    """Whether the answer, out of its code fence if it has one, is a JSON object or list."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", answer, re.DOTALL)
    try:
        return isinstance(json.loads(fenced[1] if fenced else answer), dict | list)
    except (ValueError, RecursionError):
        return False
