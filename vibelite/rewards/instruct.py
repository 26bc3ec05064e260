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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.answer_text import after_thinking
from vibelite.types import Problem, Verdict

RULES = "rules"
# Latin, Greek, Arabic, Devanagari, Chinese and Japanese sentence ends; a run of them is one end.
_SENTENCE_END = re.compile(r"[.!?\u037e\u061f\u0964\u3002\uff01\uff1f]+(?=\s|$|[^\x00-\x7f])")
_BULLET = re.compile(r"^[^\S\n]*(?:[-*+\u2022]|\d{1,3}[.)])\s+\S", re.MULTILINE)
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
# Chinese and Japanese are written without spaces: each character counts as a word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['\u2019-]\w+)*"
)


FORMATS: dict[str, Callable[[str], bool]] = {
    "json": lambda answer: _is_json(answer),
    "lowercase": lambda answer: answer == answer.lower(),
    "uppercase": lambda answer: answer == answer.upper(),
    "one_line": lambda answer: "\n" not in answer,
    "no_comma": lambda answer: not any(comma in answer for comma in ",\u060c\u3001\uff0c"),
}
COUNTED: dict[str, Callable[[str], int]] = {
    "words": lambda answer: len(_WORD.findall(answer)),
    "characters": len,
    "lines": lambda answer: sum(bool(line.strip()) for line in answer.splitlines()),
    "sentences": lambda answer: sum(bool(part.strip()) for part in _SENTENCE_END.split(answer)),
    "paragraphs": lambda answer: sum(bool(p.strip()) for p in _PARAGRAPH_BREAK.split(answer)),
    "bullets": lambda answer: len(_BULLET.findall(answer)),
}
# The settings of each rule: those it needs, and those it may have; one at least.
SETTINGS: dict[str, tuple[set[str], set[str]]] = {
    **{name: (set(), {"min", "max"}) for name in COUNTED},
    "count": ({"text"}, {"text", "min", "max"}),
    "keywords": (set(), {"all", "none"}),
    "order": ({"texts"}, {"texts"}),
    "starts": ({"text"}, {"text"}),
    "ends": ({"text"}, {"text"}),
    "format": ({"as"}, {"as"}),
}


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
            return _within(rule, len(_ends_of(rule["text"], folded)))
        case "keywords":
            return all(_ends_of(word, folded) for word in rule.get("all", [])) and not any(
                _ends_of(word, folded) for word in rule.get("none", [])
            )
        case "order":
            return _in_order(rule["texts"], folded)
        case "starts":
            return folded.startswith(rule["text"].casefold())
        case "ends":
            return folded.endswith(rule["text"].casefold())
        case "format":
            return FORMATS[rule["as"]](answer)
        case counted:
            return _within(rule, COUNTED[counted](answer))


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
    return [_read_rule(rule, f"rule {number}: ") for number, rule in enumerate(value, start=1)]


def describe(rule: Mapping[str, Any]) -> str:
    """A rule in a few words: words (min 20, max 60)."""
    settings = ", ".join(f"{key} {value}" for key, value in rule.items() if key != "rule")
    return f"{rule['rule']} ({settings})" if settings else rule["rule"]


def _read_rule(rule: Any, where: str) -> dict[str, Any]:
    """The rule without the empty columns that a table adds to it."""
    name = rule.get("rule") if isinstance(rule, dict) else rule
    if not isinstance(rule, dict) or name not in SETTINGS:
        raise DataError(f"{where}{str(name)[:60]!r} is none of {', '.join(SETTINGS)}")
    needed, possible = SETTINGS[name]
    settings = {key: value for key, value in rule.items() if key != "rule" and value is not None}
    if missing := needed - settings.keys():
        raise DataError(f"{where}{name} needs {', '.join(sorted(missing))}")
    if unknown := settings.keys() - possible:
        raise DataError(f"{where}{name} has no {', '.join(sorted(unknown))}")
    if not settings:
        raise DataError(f"{where}{name} needs {' or '.join(sorted(possible))}")
    for key, value in settings.items():
        _check_setting(f"{where}{name}: {key}", key, value)
    return {"rule": name, **settings}


def _check_setting(where: str, key: str, value: Any) -> None:
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
        raise DataError(f"{where} must be {wanted}, found {str(value)[:60]!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _within(rule: Mapping[str, Any], count: int) -> bool:
    return rule.get("min", 0) <= count <= rule.get("max", count)


def _ends_of(text: str, folded: str) -> list[int]:
    """Where `text` ends in `folded`; a letter or digit at its edge must be the edge of a word."""
    text = text.casefold()
    before = r"(?<![^\W_])" if _is_spaced(text[0]) else ""
    after = r"(?![^\W_])" if _is_spaced(text[-1]) else ""
    return [match.end() for match in re.finditer(before + re.escape(text) + after, folded)]


def _is_spaced(character: str) -> bool:
    """Whether words of this character's script are set apart by spaces."""
    return character.isalnum() and not re.match(r"[\u3040-\u30ff\u3400-\u9fff]", character)


def _in_order(texts: Sequence[str], folded: str) -> bool:
    """Whether each text occurs behind the end of the one before."""
    position = 0
    for text in texts:
        ends = (end for end in _ends_of(text, folded) if end - len(text.casefold()) >= position)
        if (position := next(ends, -1)) < 0:
            return False
    return True


def _is_json(answer: str) -> bool:
    """Whether the answer, out of its code fence if it has one, is a JSON object or list."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", answer, re.DOTALL)
    try:
        return isinstance(json.loads(fenced[1] if fenced else answer), dict | list)
    except (ValueError, RecursionError):
        return False
