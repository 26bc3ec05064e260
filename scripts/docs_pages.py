"""Pages of the documentation that come from elsewhere in the repository: a hook of MkDocs.

The recipe's reference is made from its schema; README, CONTRIBUTING and the diary are pages too.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "code.md",
    "benchmarks/README.md": "diary.md",
}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "reference.md", content=reference(_schema())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the repository has them become links between pages; other files are only named."""
    page_path = page.file.src_uri
    source = next((path for path, name in PAGES.items() if name == page_path), f"docs/{page_path}")

    def target(match: re.Match[str]) -> str:
        path = (ROOT / source).parent.joinpath(match[2]).resolve().relative_to(ROOT).as_posix()
        if path not in PAGES and not path.startswith("docs/"):
            return f"`{path}`"
        return f"[{match[1]}]({PAGES.get(path, path.removeprefix('docs/'))}{match[3] or ''})"

    return LINK.sub(target, markdown)


def _schema() -> dict[str, Any]:
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "vibelite", "schema"], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def reference(schema: dict[str, Any]) -> str:
    """Every key of a recipe, as Markdown: one table a section, in the order of the schema."""
    parts = [
        "# Every key of a recipe\n",
        "Made from `vibelite schema`. Keys without a default are needed.\n",
    ]
    parts += ["## Top level\n", *_table(schema)]
    for name, section in sorted(schema["$defs"].items()):
        if "properties" in section:
            parts += [f"\n## {name}\n", section.get("description", "") + "\n", *_table(section)]
    return "\n".join(parts) + "\n"


def _table(section: dict[str, Any]) -> list[str]:
    needed = section.get("required", [])
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for key, value in section["properties"].items():
        default = "needed" if key in needed else f"`{json.dumps(value.get('default'))}`"
        text = " ".join(value.get("description", "").split()).replace("|", "\\|")
        rows.append(f"| `{key}` | {_type(value)} | {default} | {text} |")
    return rows


def _type(value: dict[str, Any]) -> str:
    """A type in words; other sections as links."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    for several in ("anyOf", "oneOf"):
        if several in value:
            return " or ".join(_type(choice) for choice in value[several])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    return str(value.get("type", "any")) + _bounds(value)


def _bounds(value: dict[str, Any]) -> str:
    words = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    # 2**53 bounds every whole number of a recipe, which says nothing to a reader.
    bounds = {key: value[key] for key in words if key in value and value[key] != 2**53}
    found = [f"{words[key]} {bound:g}" for key, bound in bounds.items()]
    return f", {', '.join(found)}" if found else ""
