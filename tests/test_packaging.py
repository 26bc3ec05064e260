"""pyproject.toml, the tested versions, the Makefile and the set-up script agree with each other."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from vibelite import __version__

ROOT = Path(__file__).parent.parent
CONSTRAINTS = sorted((ROOT / "constraints").glob("*.txt"))
# Extra -> the constraints file that has to cover it; None: the base install.
COVERED_BY = {
    None: "cpu",
    "dev": "cpu",
    "smollm": "cpu",
    "gpu": "gpu",
    "unsloth": "gpu",
    "track": "gpu",
    "mlflow": "cpu",
}
# Import name -> distribution, where the two differ.
DISTRIBUTIONS = {"ruamel": "ruamel-yaml"}
# Imported inside functions only, by those who asked for the extra.
OPTIONAL_IMPORTS = {
    "triton",
    "vllm",
    "bitsandbytes",
    "pynvml",
    "unsloth",
    "gguf",
    "trackio",
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(extra: str | None) -> list[Requirement]:
    table = project()
    texts = table["dependencies"] if extra is None else table["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def pins(path: Path) -> dict[str, Version]:
    """Name -> version; fails on any line that is not name==version."""
    found = {}
    for line in path.read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*(?:\+cpu)?)", line)
        assert match, f"{path.name}: {line!r} is not name==version"
        assert canonicalize_name(match[1]) not in found, line
        found[canonicalize_name(match[1])] = Version(match[2])
    return found


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_hold_names_and_versions_and_no_address(path: Path) -> None:
    assert len(pins(path)) > 50
    assert "://" not in path.read_text()


def test_every_extra_is_covered() -> None:
    assert set(COVERED_BY) - {None} == set(project()["optional-dependencies"])


@pytest.mark.parametrize("extra", COVERED_BY, ids=str)
def test_the_tested_versions_satisfy_pyproject(extra: str | None) -> None:
    tested = pins(ROOT / "constraints" / f"{COVERED_BY[extra]}.txt")
    for requirement in requirements(extra):
        name = canonicalize_name(requirement.name)
        assert name in tested, f"{name} has no tested version"
        assert requirement.specifier.contains(tested[name]), f"{requirement} but {tested[name]}"


def test_the_gpu_stack_is_the_same_torch_and_transformers_as_the_cpu_one() -> None:
    cpu, gpu = (pins(ROOT / "constraints" / f"{name}.txt") for name in ("cpu", "gpu"))
    for name in ("torch", "transformers", "datasets", "tokenizers", "safetensors"):
        assert cpu[name] == gpu[name]


def test_torch_is_never_asked_for_without_its_version() -> None:
    (torch,) = (r for r in requirements(None) if r.name == "torch")
    assert str(torch.specifier) == "==2.13.*"
    script = (ROOT / "scripts" / "setup_venv.sh").read_text()
    assert not re.search(r"install .*\btorch\b", script)


def test_every_import_of_the_package_is_a_dependency() -> None:
    declared = {canonicalize_name(r.name) for r in requirements(None)}
    imported: set[str] = set()
    for path in (ROOT / "vibelite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.split(".")[0] for name in names}
    foreign = imported - sys.stdlib_module_names - OPTIONAL_IMPORTS - {"vibelite"}
    needed = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in foreign}
    assert needed - declared == set()


def test_the_version_is_written_once_and_again_the_same() -> None:
    assert project()["version"] == __version__


# What .ci/run asks make for, in this order.
PARTS = ("test", "resolve", "docs", "test-slow", "test-vllm")


def run_ci_script(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a directory of its own, with a make that says how it was called and fails for
    the target of FAILS.
    """
    (checkout / ".ci").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci" / "run")
    make = checkout / "bin" / "make"
    make.parent.mkdir(exist_ok=True)
    make.write_text('#!/bin/sh\necho "$2 data=$VIBELITE_BENCHMARK_DATA"\n[ "$2" != "$FAILS" ]\n')
    make.chmod(0o755)
    path = f"{make.parent}:{os.environ['PATH']}"
    return subprocess.run(
        [checkout / ".ci" / "run"],
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
    )


def calls_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stdout.splitlines() if not line.startswith("==")]


def test_the_ci_script_runs_the_four_parts_and_ends_with_the_first_failure(
    tmp_path: Path,
) -> None:
    whole = run_ci_script(tmp_path / "checkout")
    assert whole.returncode == 0
    assert calls_of(whole) == [f"{name} data=" for name in PARTS]
    failed = run_ci_script(tmp_path / "checkout", FAILS="test-slow")
    assert failed.returncode != 0
    assert calls_of(failed) == [f"{name} data=" for name in PARTS[:4]]
    assert run_ci_script(tmp_path / "checkout", FAILS="test-vllm").returncode != 0


def test_the_ci_script_finds_benchmark_files_beside_the_checkout(tmp_path: Path) -> None:
    data = tmp_path / "shared" / "data"
    data.mkdir(parents=True)
    found = run_ci_script(tmp_path / "checkout")
    assert calls_of(found) == [f"{name} data={data}" for name in PARTS]
    named = run_ci_script(tmp_path / "checkout", VIBELITE_BENCHMARK_DATA="/elsewhere")
    assert calls_of(named)[0] == "test data=/elsewhere"


HERE = "not gpu and not vllm and not unsloth and not cloud"
PYTEST = ".venv/bin/python -m pytest -q -n 2 --dist loadgroup -m"


def test_the_markers_of_the_makefile_are_those_of_pyproject() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    assert f"-m={HERE}" in options["ini_options"]["addopts"]


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("test", f'{PYTEST} "not slow and {HERE}"'),
        ("test-slow", f'{PYTEST} "slow and {HERE}"'),
        ("test-vllm", "OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -q -m vllm"),
    ],
)
def test_make_ends_with_pytest(target: str, last: str) -> None:
    result = subprocess.run(
        ["make", "-n", target], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.splitlines()[-1] == last


def test_set_up_says_what_is_missing_when_there_is_no_python(tmp_path: Path) -> None:
    """With an empty PATH but for the tools that the script itself starts."""
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "setup_venv.sh"
    script.write_text((ROOT / "scripts" / "setup_venv.sh").read_text())
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("dirname", "rm"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    result = subprocess.run(
        ["/bin/bash", str(script)], capture_output=True, text=True, env={"PATH": str(tools)}
    )
    assert result.returncode == 1
    assert result.stderr == (
        "setup: Python 3.11 or 3.12 is needed, and none of python3, python3.12, python3.11 is one\n"
    )


def test_an_installed_package_holds_the_recipes(tmp_path: Path) -> None:
    """The wheel's files, laid out as pyproject.toml says, used from outside the repository."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for source, target in wheel["targets"]["wheel"]["force-include"].items():
        shutil.copytree(ROOT / "vibelite", tmp_path / "site" / "vibelite")
        shutil.copytree(ROOT / source, tmp_path / "site" / target)
    (tmp_path / "work").mkdir()

    def vibelite(*arguments: str) -> str:
        command = [sys.executable, "-m", "vibelite", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=tmp_path / "work",
            env=environment,
        ).stdout  # fmt: skip

    assert vibelite("plan", "quickstart").startswith("quickstart: ")
    vibelite("init", "mine.yaml", "--from", "vibethinker_1p5b_1x80gb")
    written = (tmp_path / "work" / "mine.yaml").read_text()
    shipped = (ROOT / "recipes" / "vibethinker_1p5b_1x80gb.yaml").read_text()
    assert written == shipped.replace("name: vibethinker_1p5b_1x80gb", "name: mine")


def test_the_licence_is_that_of_the_project() -> None:
    assert project()["license"] == "Apache-2.0"
    assert [(ROOT / name).exists() for name in project()["license-files"]] == [True]
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
