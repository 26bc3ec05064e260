"""Pydantic's errors about a recipe, as locations in the user's file and messages for a person."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vibelite.recipe.schema import Recipe
from vibelite.recipe.source import Location
from vibelite.recipe.suggest import did_you_mean

# The fields that choose between models (`Field(discriminator=...)` in the schema).
TAG_FIELDS = ("kind", "source")
MAX_VALUE_CHARACTERS = 60


def explain(error: ValidationError) -> Iterator[tuple[Location, str]]:
    """For every error: the location of the offending key, and what is wrong with it."""
    for details in error.errors(include_url=False):
        location, sections = _resolve(details["loc"])
        yield _explain_one(dict(details), location, sections)


def _explain_one(
    details: dict[str, Any], location: Location, sections: list[type[BaseModel]]
) -> tuple[Location, str]:
    context = details.get("ctx", {})
    value = details.get("input")
    match details["type"]:
        case "extra_forbidden":
            return location, "unknown key" + _suggest_key(str(location[-1]), sections[0])
        case "missing":
            return location, "this key is required"
        case "union_tag_not_found" | "union_tag_invalid":
            tags = [tag for section in sections for tag in _tags(section)]
            message = f"this key is required (one of: {', '.join(tags)})"
            if "tag" in context:
                message = _unknown_choice(context["tag"], tags)
            return (*location, context["discriminator"].strip("'")), message
        case "literal_error":
            return location, _unknown_choice(value, re.findall(r"'([^']*)'", context["expected"]))
        case "string_type" if not isinstance(value, dict | list):
            return location, f"must be text, not {_show(value)}: put it in quotes"
        case "string_pattern_mismatch":
            rule = "a name has letters, digits and . _ -, and begins with a letter or digit"
            return location, f"{_show(value)} is no name: {rule}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return location, f"must be a section (a mapping of keys to values), not {_show(value)}"
        case "value_error":
            return location, str(context["error"])
        case "too_short":
            counts = f"at least {context['min_length']}, has {context['actual_length']}"
            return location, f"needs {counts}"
    message = details["msg"].replace("Input should be", "must be")
    message = message.replace("a valid integer", "a whole number").replace("a valid ", "a ")
    return location, f"{message[0].lower()}{message[1:]}, not {_show(value)}"


def _resolve(loc: tuple[str | int, ...]) -> tuple[Location, list[type[BaseModel]]]:
    """The location without tags of unions and "[key]", and the models of the last section."""
    annotation: Any = Recipe
    location: list[str | int] = []
    sections: list[type[BaseModel]] = [Recipe]
    for part in loc:
        if part == "[key]":
            continue
        members = _models(annotation)
        if len(members) > 1:
            annotation = next((model for model in members if part in _tags(model)), Any)
            continue
        if members:
            sections = members
        location.append(part)
        annotation = _child(annotation, part)
    return tuple(location), _models(annotation) if len(_models(annotation)) > 1 else sections


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that `annotation` allows: [] for a plain value, several for a union."""
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in _models(member)]
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return [annotation] if is_model else []


def _child(annotation: Any, part: str | int) -> Any:
    if get_origin(annotation) is Annotated:
        return _child(get_args(annotation)[0], part)
    if models := _models(annotation):
        field = models[0].model_fields.get(str(part))
        return field.annotation if field else Any
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    if get_origin(annotation) in (list, tuple):
        return get_args(annotation)[0]
    return Any


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    for name in TAG_FIELDS:
        field = model.model_fields.get(name)
        if field and get_origin(field.annotation) is Literal:
            return get_args(field.annotation)
    return ()


def _suggest_key(wrong: str, section: type[BaseModel]) -> str:
    """Names the key that was meant: of this section, or of a section directly inside it."""
    for name, field in section.model_fields.items():
        for inner in _models(field.annotation):
            if wrong in inner.model_fields and wrong not in section.model_fields:
                return f"; did you mean '{name}.{wrong}'?"
    return did_you_mean(wrong, section.model_fields)


def _unknown_choice(value: Any, choices: list[str]) -> str:
    hint = did_you_mean(str(value), choices)
    hint = hint if "did you mean" in hint else ""
    return f"{_show(value)} is not one of: {', '.join(choices)}{hint}"


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    return text[: MAX_VALUE_CHARACTERS - 3] + "..."
