"""The direction of imports, and the sizes that keep files readable, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vibelite"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# What everything may import: values, errors, the layout of a run, and what disks do to it.
BASE_LAYER = {"errors", "hints", "types", "units", "storage", "run_dir"}
DATA_MODEL = BASE_LAYER | {"recipe"}
# Area (a directory or module right under vibelite) -> the areas that it may import beside itself.
ALLOWED = {
    "__init__": {"api"},
    "api": {"errors", "run_dir"},
    "__main__": {"cli"},
    "errors": set(),
    "hints": set(),
    "types": set(),
    "units": set(),
    "storage": {"errors"},
    "run_dir": {"errors", "types", "storage"},
    "run_lock": {"errors", "storage", "run_dir"},
    "recipe": BASE_LAYER,
    # storage: the checksums of a fused model are not those of its first source.
    "algorithms": {"types", "errors", "storage"},
    "kernels": {"types"},
    "models": DATA_MODEL | {"kernels"},
    "data": DATA_MODEL | {"rewards"},
    "rewards": BASE_LAYER,
    # The processes of one run on several GPUs. kernels: the type of a loss.
    "ranks": BASE_LAYER | {"models", "kernels"},
    "rollout": BASE_LAYER | {"models", "ranks"},
    "training": DATA_MODEL | {"models", "kernels", "ranks"},
    "telemetry": DATA_MODEL | {"ranks", "run_lock"},
    "planning": DATA_MODEL | {"data", "tables"},
    # algorithms: the intervals of differences between runs.
    "report": DATA_MODEL | {"telemetry", "algorithms", "tables"},
    # report: an export brings its model card.
    "stages": DATA_MODEL
    | {"training", "rollout", "planning", "models", "algorithms", "rewards", "data", "telemetry"}
    | {"report", "ranks"},
    "resume": DATA_MODEL,
    # rewards: the verifiers' processes live as long as a stage.
    "pipeline": DATA_MODEL
    | {
        "resume",
        "run_lock",
        "ranks",
        "stages",
        "models",
        "rewards",
        "telemetry",
        "report",
        "planning",
    },
    "tables": set(),
    # One file per command; what it does is below. models: unsloth must be imported before anything
    # that a run imports. run_lock: one evaluation at a time in its directory.
    "commands": DATA_MODEL
    | {"planning", "data", "report", "rewards", "tables", "pipeline", "telemetry", "stages"}
    | {"__init__", "ranks", "models", "run_lock"},
    # The list of commands and tools.
    "cli": {"__init__", "errors", "commands", "tools"},
}
# Programs around a run, one file each with its logic: free to import anything, imported by nothing
# but the command line.
ALLOWED["tools"] = ALLOWED.keys() - {"cli", "__main__"}
# Torch is never needed to read what a run left behind, or to judge a text.
WITHOUT_TORCH = (
    "recipe",
    "rewards",
    "report",
    "errors",
    "types",
    "storage",
    "run_dir",
    "cli",
    "api",
    "__init__",
)

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`vibelite/stages/sft.py` -> "vibelite.stages.sft"; a package is named without __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def area(module: str) -> str:
    """The directory or module directly under vibelite that `module` belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


MODULES = {module_name(path) for path in FILES}


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """The modules that a file imports, anywhere in it; `at_run_time`: without those that it imports
    for type checkers alone.

    `from a import b` counts as a.b where that is a module of this package.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if at_run_time and node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def wrong_edges(edges: Iterator[tuple[str, str]]) -> list[str]:
    """Those of the edges (importing module, imported module) that ALLOWED does not know."""
    return [
        f"{source} -> {target}"
        for source, target in edges
        if area(source) != area(target) and area(target) not in ALLOWED[area(source)]
    ]


def package_edges() -> Iterator[tuple[str, str]]:
    for path in FILES:
        for target in imports(path):
            if target.split(".")[0] == "vibelite":
                yield module_name(path), target


def test_lower_layers_never_import_higher_ones() -> None:
    assert wrong_edges(package_edges()) == []


def test_the_check_of_edges_sees_a_wrong_one() -> None:
    edges = iter([("vibelite.rollout.engine", "vibelite.training.optim")])
    assert wrong_edges(edges) == ["vibelite.rollout.engine -> vibelite.training.optim"]


def test_the_check_of_edges_sees_imports_for_type_checkers(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text("if TYPE_CHECKING:\n    from vibelite.types import Group\nimport json\n")
    assert list(imports(path)) == ["json", "vibelite.types"]
    assert list(imports(path, at_run_time=True)) == ["json"]


def test_areas_form_no_cycle() -> None:
    remaining = {name: set(allowed) - {name} for name, allowed in ALLOWED.items()}
    while free := [name for name, allowed in remaining.items() if not allowed & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert remaining == {}


def test_modules_form_no_cycle() -> None:
    remaining = {module: set[str]() for module in MODULES}
    for source, target in package_edges():
        if target in MODULES and target != source:
            remaining[source].add(target)
    while free := [module for module, targets in remaining.items() if not targets & set(remaining)]:
        for module in free:
            del remaining[module]
    assert remaining == {}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_no_torch_where_none_is_needed(name: str) -> None:
    files = [path for path in FILES if area(module_name(path)) == name]
    assert files
    using = [
        str(path)
        for path in files
        for target in imports(path, at_run_time=True)
        if target.split(".")[0] in ("torch", "transformers")
    ]
    assert using == []


def test_algorithms_and_kernels_know_no_library_but_those_of_arrays() -> None:
    # fusion.py streams safetensors files.
    arrays = {"torch", "triton", "numpy", "safetensors"}
    known = sys.stdlib_module_names | arrays | {"vibelite"}
    foreign = [
        f"{path.name}: {target}"
        for path in FILES
        if area(module_name(path)) in ("algorithms", "kernels")
        for target in imports(path)
        if target.split(".")[0] not in known
    ]
    assert foreign == []


def test_only_one_area_knows_about_several_processes() -> None:
    using = {
        area(module_name(path))
        for path in FILES
        for target in imports(path)
        if target.startswith("torch.distributed")
    }
    assert using == {"ranks"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def loaded_modules(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statement`."""
    program = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import vibelite",
        "import vibelite.cli",
        "import vibelite.recipe.load",
        "import vibelite.rewards.verifier",
        "import vibelite.report.build",
        "import vibelite.pipeline",  # the ledger begins before a run imports torch
    ],
)
def test_heavy_libraries_are_not_loaded(statement: str) -> None:
    heavy = {"torch", "transformers", "datasets", "reasoning_gym", "sympy"}
    assert loaded_modules(statement) & heavy == set()
