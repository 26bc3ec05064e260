"""Settings that messages and docstrings of the package name are settings that a recipe has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from vibelite.recipe.schema import Recipe

PACKAGE = Path(__file__).parents[2] / "vibelite"
# A part in an f-string that is computed, and a part that stands for any.
ANY = "*"
_KEY = re.compile(r"(?<![\w./\\*{-])[a-z][a-z_]*(?:\.(?:[a-z][a-z0-9_-]*|\*))+(?![\w(/*])")
# Files, not settings: "model.safetensors".
_FILE_ENDINGS = {"safetensors", "py", "json", "jsonl", "yaml", "gguf", "md", "html", "pt"}


def texts_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string, with ANY for what an f-string computes."""
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner.update(map(id, node.values))
            parts = [v.value if isinstance(v, ast.Constant) else ANY for v in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in inner:
            yield node.lineno, str(node.value)


def keys_in(text: str) -> list[str]:
    """Dotted names that begin with a section of the recipe, and are no code and no file."""
    return [
        key
        for key in _KEY.findall(text)
        if key.split(".")[0] in Recipe.model_fields
        and key.split(".")[-1] not in _FILE_ENDINGS
        and not is_code(*key.split(".")[:2])
    ]


def is_code(first: str, second: str) -> bool:
    """A module of an area, "training.optim", or a function of a module, "parallel.load_parts"."""
    return (PACKAGE / first / f"{second}.py").exists() or any(
        f"def {second}(" in path.read_text() for path in PACKAGE.rglob(f"{first}.py")
    )


def has_key(annotation: Any, parts: list[str]) -> bool:
    """Whether a value of this type has the key; names in a dict and places in a list are free."""
    if not parts or annotation is Any:
        return True
    if get_origin(annotation) is Annotated:
        return has_key(get_args(annotation)[0], parts)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        chosen = fields if parts[0] == ANY else {parts[0]} & fields.keys()
        return any(has_key(fields[name].annotation, parts[1:]) for name in chosen)
    match get_origin(annotation):
        case None:
            return False
        case origin if origin is Literal:
            return False
        case origin if origin in (dict, list, tuple):
            return has_key(get_args(annotation)[-1], parts[1:])
    return any(has_key(part, parts) for part in get_args(annotation) if part is not NoneType)


def is_setting(key: str) -> bool:
    return has_key(Recipe, key.split("."))


def test_every_setting_that_the_package_names_is_in_the_schema() -> None:
    named, unknown = set(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in texts_of(ast.parse(path.read_text())):
            keys = keys_in(text)
            named.update(keys)
            unknown += [
                f"{path.relative_to(PACKAGE)}:{line}: {key}" for key in keys if not is_setting(key)
            ]
    assert unknown == []
    assert len(named) > 20, "the search finds what is there"
