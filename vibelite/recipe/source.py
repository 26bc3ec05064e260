"""A recipe's text as plain data that remembers where every key stands.

Reads YAML 1.2 with ruamel.yaml (`1e-6` is a number, `no` is text) from its node tree, because only
the nodes know line and column. Nothing here knows the schema; `overrides.py` changes the data, and
`load.py` validates it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from vibelite.errors import RecipeError

# From the root of the recipe: keys of mappings and indices of lists.
Location = tuple[str | int, ...]

MERGE_TAG = "tag:yaml.org,2002:merge"
# Lists and mappings inside each other; no recipe has ten.
MAX_DEPTH = 50


@dataclass(slots=True)
class RecipeSource:
    """The data of a recipe before validation.

    `origins` tells for each location where it was written: "file:line:col" of the key (of the item
    in a list), or the `--set` argument that put it there. `problems` are origin, location, message.
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
        """`file:line:col: path: message` of every problem: those of `--set` arguments, then those
        of the file from top to bottom.
        """
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
    yaml = YAML(typ="safe", pure=True)
    try:
        _require_shallow(text, str(path))
        root = yaml.compose(text)
    except YAMLError as error:
        raise RecipeError(_syntax_message(source.file, error)) from error
    if not isinstance(root, MappingNode):
        raise RecipeError(f"{path}:1:1: a recipe is a mapping of keys to values, such as `seed: 0`")
    source.data = _Builder(source, yaml).build(root, ())
    return source


def _require_shallow(text: str, name: str) -> None:
    """RecipeError, with the place, for sections inside each other beyond what Python can follow."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            place = f"{name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
            raise RecipeError(f"{place}: nested more than {MAX_DEPTH} deep; close a bracket before")


def parse_value(text: str) -> Any:
    """The value of a `--set` argument, as YAML. Raises ValueError if it is not."""
    try:
        _require_shallow(text, "value")
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecipeError) as error:
        raise ValueError(getattr(error, "problem", None) or str(error)) from error


def _syntax_message(file: str, error: YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    if not isinstance(mark, StringMark):
        return f"{file}: not YAML: {' '.join(str(error).split())}"
    assert isinstance(error, MarkedYAMLError)
    context = f" ({error.context})" if error.context else ""
    return f"{file}:{mark.line + 1}:{mark.column + 1}: not YAML: {error.problem}{context}"


@dataclass(slots=True)
class _Builder:
    """Turns nodes into dicts, lists and scalars, noting origins and problems in `source`."""

    source: RecipeSource
    yaml: YAML
    # Nodes that are being built: an alias to one of them would never end.
    open_nodes: set[int] = field(default_factory=set)

    def build(self, node: Node, location: Location) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node, location)
        if id(node) in self.open_nodes:
            self.source.report(location, "the alias refers to a section that contains it")
            return None
        self.open_nodes.add(id(node))
        value = (
            self._mapping(node, location)
            if isinstance(node, MappingNode)
            else self._sequence(node, location)
        )
        self.open_nodes.remove(id(node))
        return value

    def _scalar(self, node: ScalarNode, location: Location) -> Any:
        try:
            return self.yaml.constructor.construct_object(node)
        except (YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self.source.report(location, f"{node.value!r} cannot be read: {problem}")
            return None

    def _sequence(self, node: Node, location: Location) -> list[Any]:
        assert isinstance(node, SequenceNode), node
        items = []
        for index, item in enumerate(node.value):
            self.source.origins[(*location, index)] = self._origin(item)
            items.append(self.build(item, (*location, index)))
        return items

    def _mapping(self, node: MappingNode, location: Location) -> dict[str, Any]:
        values: dict[str, Any] = {}
        written: dict[Hashable, str] = {}
        for key_node, value_node, is_merged in self._entries(node, location):
            key, origin = key_node.value, self._origin(key_node)
            inner = (*location, key)
            if not is_merged and key in written:
                message = f"the key {key!r} was already given at {written[key]}"
                self.source.report(inner, message, origin=origin)
                continue
            if not is_merged:
                written[key] = origin
            self.source.origins[inner] = origin
            values[key] = self.build(value_node, inner)
        return values

    def _entries(
        self, node: MappingNode, location: Location
    ) -> Iterator[tuple[ScalarNode, Node, bool]]:
        """Keys and values; those of `<<: *other` come first, so that the mapping's own win."""
        own = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                message = "a key must be plain text"
                self.source.report(location, message, origin=self._origin(key_node))
            elif key_node.tag != MERGE_TAG:
                own.append((key_node, value_node, False))
            elif isinstance(value_node, MappingNode):
                yield from ((*entry[:2], True) for entry in self._entries(value_node, location))
            else:
                self.source.report(location, "`<<` takes the alias of one mapping")
        yield from own

    def _origin(self, node: Node) -> str:
        return f"{self.source.file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
