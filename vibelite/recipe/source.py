"""A recipe's text as plain data that remembers where every key stands.

Reads YAML 1.2 with ruamel.yaml (`1e-6` is a number, `no` is text), which keeps line and column.
Nothing here knows the schema; `overrides.py` changes the data, and `load.py` validates it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from vibelite.errors import RecipeError

# From the root of the recipe: keys of mappings and indices of lists.
Location = tuple[str | int, ...]

# Lists and mappings inside each other; no recipe has ten.
MAX_DEPTH = 50


@dataclass(slots=True)
class RecipeSource:
    """The data of a recipe before validation. `origins`: where each location was written,
    "file:line:col" or the `--set` argument; `problems`: origin, location, message.
    """

    file: str
    data: Any = None
    origins: dict[Location, str] = field(default_factory=dict)
    problems: list[tuple[str, Location, str]] = field(default_factory=list)

    def origin(self, location: Location) -> str:
        """Where `location` was written, or the nearest section around it that was written."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.origins:
                return self.origins[location[:length]]
        return f"{self.file}:1:1"

    def is_written(self, location: Location) -> bool:
        """Whether the recipe says something there; if not, a default holds."""
        value = self.data
        for part in location:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def stage_name(self, index: int) -> str | None:
        """The name that the stage at `index` has or will get by default, if that can be told."""
        stages = self.data.get("stages") if isinstance(self.data, dict) else None
        if not isinstance(stages, list) or not 0 <= index < len(stages):
            return None
        stage = stages[index]
        name = (stage.get("name") or stage.get("kind")) if isinstance(stage, dict) else None
        return name if isinstance(name, str) else None

    def report(self, location: Location, message: str, *, origin: str | None = None) -> None:
        """Adds a problem at `location`; `origin` where it is not that of the location."""
        self.problems.append((origin or self.origin(location), location, message))

    def problem_lines(self) -> list[str]:
        """`file:line:col: path: message`: first of `--set`, then from top to bottom."""
        position = re.compile(re.escape(self.file) + r":(\d+):(\d+)$")

        def order(problem: tuple[str, Location, str]) -> tuple[int, ...]:
            match = position.match(problem[0])
            return tuple(map(int, match.groups())) if match else (0, 0)

        return [self._line(*problem) for problem in sorted(self.problems, key=order)]

    def _line(self, origin: str, location: Location, message: str) -> str:
        path = self.path_text(location)
        if not path or origin.startswith(f"--set {path}="):
            return f"{origin}: {message}"
        return f"{origin}: {path}: {message}"

    def path_text(self, location: Location) -> str:
        """`location` as `--set` takes it: stages.mgpo.num_steps rather than stages.3.num_steps."""
        parts = [str(part) for part in location]
        if len(location) > 1 and location[0] == "stages" and isinstance(location[1], int):
            parts[1] = self.stage_name(location[1]) or parts[1]
        return ".".join(parts)


def read_source(path: Path) -> RecipeSource:
    """The data of the recipe file. Raises RecipeError where there is nothing to validate at all."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    source = RecipeSource(file=str(path))
    try:
        _require_finite(text, str(path))
        root = YAML(typ="rt").load(text)
    except (YAMLError, ValueError) as error:
        raise RecipeError(_syntax_message(source.file, error)) from error
    if not isinstance(root, CommentedMap):
        raise RecipeError(f"{path}:1:1: a recipe is a mapping of keys to values, such as `seed: 0`")
    source.data = _plain(source, root, ())
    return source


def _require_finite(text: str, name: str) -> None:
    """RecipeError, with the place, for sections inside each other beyond what Python can follow, or
    inside themselves.
    """
    open_anchors: list[str | None] = []
    for event in YAML(typ="safe", pure=True).parse(text):
        place = f"{name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        if isinstance(event, CollectionStartEvent):
            open_anchors.append(event.anchor)
        elif isinstance(event, CollectionEndEvent):
            open_anchors.pop()
        elif isinstance(event, AliasEvent) and event.anchor in open_anchors:
            raise RecipeError(f"{place}: the alias *{event.anchor} is inside what it stands for")
        if len(open_anchors) > MAX_DEPTH:
            raise RecipeError(f"{place}: nested more than {MAX_DEPTH} deep; close a bracket before")


def parse_value(text: str) -> Any:
    """The value of a `--set` argument, as YAML. Raises ValueError if it is not."""
    try:
        _require_finite(text, "value")
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecipeError) as error:
        raise ValueError(getattr(error, "problem", None) or str(error)) from error


def _syntax_message(file: str, error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and isinstance(mark := error.problem_mark, StringMark):
        context = f" ({error.context})" if error.context else ""
        return f"{file}:{mark.line + 1}:{mark.column + 1}: not YAML: {error.problem}{context}"
    return f"{file}: not YAML: {' '.join(str(error).split())}"


def _plain(source: RecipeSource, value: Any, location: Location) -> Any:
    match value:
        case CommentedMap() | CommentedSeq():
            is_map = isinstance(value, CommentedMap)
            items: dict[Any, Any] = dict(value.items() if is_map else enumerate(value))
            for key, item in items.items():
                # What `<<` brings has no place of its own; the section around it has.
                if place := (value.lc.data or {}).get(key):
                    line, column = place[:2]
                    origin = f"{source.file}:{line + 1}:{column + 1}"
                    source.origins[(*location, key)] = origin
                items[key] = _plain(source, item, (*location, key))
            return items if is_map else list(items.values())
        case bool() | None:
            return value
        case int():
            return int(value)
        case float():
            return float(value)
        case _:
            return str(value)
