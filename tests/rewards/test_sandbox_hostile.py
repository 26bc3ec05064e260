"""Hostile programs as root, as an ordinary user, without user namespaces and without Landlock.

Programs are in hostile/, each with its expected end in its first lines, and in hostile_attempts.py;
hostile_run.py runs them.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vibelite
from tests.rewards.hostile_run import NUM_SANDBOXES, OUTPUT_BYTES, expectation, hostile_programs

PACKAGE = Path(vibelite.__file__).parent
HOSTILE = Path(__file__).with_name("hostile")
NOBODY = 65534
EXPECTED = {name: expectation(source) for name, source in hostile_programs().items()}


@dataclass(frozen=True)
class Setting:
    """A user, and what the kernel refuses to it; a tier, unless the machine decides."""

    is_root: bool
    refused: tuple[str, ...] = ()
    tier: str = ""


SETTINGS = {
    "root": Setting(is_root=True),
    "user": Setting(is_root=False),
    "root_in_container": Setting(True, ("namespaces",), "landlock"),
    "user_without_user_namespaces": Setting(False, ("namespaces",), "landlock"),
    "user_without_landlock": Setting(False, ("namespaces", "landlock"), "seccomp"),
}


@dataclass(frozen=True)
class Report:
    setting: Setting
    token: str
    text: str
    content: dict[str, Any]


@pytest.fixture(scope="module")
def installation() -> Iterator[Path]:
    """The sandbox's files, the programs and the runner, where every user can read them."""
    directory = Path(tempfile.mkdtemp(prefix="vibelite-sandbox-"))
    directory.chmod(0o755)
    (directory / "vibelite/rewards").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "rewards/__init__.py"):
        shutil.copyfile(PACKAGE / name, directory / "vibelite" / name)
    for path in (PACKAGE / "rewards").glob("sandbox*.py"):
        shutil.copyfile(path, directory / "vibelite/rewards" / path.name)
    for name in ("hostile_run.py", "hostile_attempts.py"):
        shutil.copyfile(HOSTILE.with_name(name), directory / name)
    shutil.copytree(HOSTILE, directory / "hostile", ignore=shutil.ignore_patterns("__pycache__"))
    yield directory
    shutil.rmtree(directory)


def interpreter(setting: Setting) -> tuple[str, dict[str, Any]]:
    """A Python that the setting's user may run, and the options of Popen that make it this user."""
    own = os.path.realpath(sys.executable)
    if setting.is_root and os.geteuid() != 0:
        pytest.skip("needs root")
    if setting.is_root or os.geteuid() != 0:
        return own, {}
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    for python in (own, "/usr/local/bin/python3", "/usr/bin/python3"):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        try:
            ended = subprocess.run([python, "-c", check], **user, cwd="/", capture_output=True)
        except OSError:
            continue
        if ended.returncode == 0:
            return python, user
    pytest.skip("no Python 3.11 that an ordinary user may run")


def run_setting(installation: Path, setting: Setting, *, runs: bool) -> Report:
    python, user = interpreter(setting)
    token = secrets.token_hex(16)
    (installation / "pyproject.toml").write_text(token)
    ended = subprocess.run(
        [python, "-B", str(installation / "hostile_run.py")]
        + [json.dumps({"refuse": setting.refused, "runs": runs})],
        **user,
        cwd="/",
        env={"VIBELITE_TEST_TOKEN": token, "HOME": str(Path.home()), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return Report(setting, token, ended.stdout, json.loads(ended.stdout))


# The weakest tier, and the two users of the strongest; what is between them is slow.
OFTEN = ("root", "user", "user_without_landlock")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(setting, id=name, marks=() if name in OFTEN else pytest.mark.slow)
        for name, setting in SETTINGS.items()
    ],
)
def report(request, installation) -> Report:
    report = run_setting(installation, request.param, runs=True)
    assert "refused" not in report.content, report.content
    return report


def test_at_least_150_programs_all_say_what_they_expect():
    assert len(EXPECTED) >= 150
    assert [name for name, expected in EXPECTED.items() if "outcome" not in expected] == []


def test_the_strongest_tier_that_the_setting_allows_is_taken(report):
    if report.setting.tier:
        assert report.content["tier"] == report.setting.tier
    assert ("own user" in report.content["layers"]) == report.setting.is_root


def test_every_program_ends_as_expected(report):
    programs = report.content["programs"]
    assert programs.keys() == EXPECTED.keys()
    wrong = {}
    for name, expected in EXPECTED.items():
        ended = programs[name]
        printed = {"outcome": ended["outcome"], "stdout": ended["stdout"].strip()}
        if any(expected.get(key, value) != value for key, value in printed.items()):
            wrong[name] = ended
    assert wrong == {}


def test_no_program_has_a_result_without_returning_one(report):
    results = {
        name: execution["result"]
        for name, execution in report.content["programs"].items()
        if execution["result"] and execution["outcome"] == "exit"
    }
    assert results == {}


def test_output_is_bounded(report):
    sizes = [execution["output_bytes"] for execution in report.content["programs"].values()]
    assert max(sizes) == OUTPUT_BYTES


def test_nobody_learns_the_secrets(report):
    assert report.token not in report.text


def test_the_world_is_as_before(report):
    assert report.content["changes"] == []


def test_no_process_is_left(report):
    num_servers = NUM_SANDBOXES * (2 if "namespaces" in report.content["layers"] else 1)
    assert report.content["processes"] == num_servers
    assert report.content["survivors"] == []


def test_programs_in_another_sandbox_are_unharmed(report):
    siblings = report.content["siblings"]
    assert len(siblings) >= 10
    assert set(siblings) == {"fine"}


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "user"])
def test_without_seccomp_programs_are_refused(installation, is_root):
    setting = Setting(is_root, ("seccomp",))
    report = run_setting(installation, setting, runs=False).content
    assert report["refused"].count("the kernel refuses a seccomp filter (Invalid argument)") == 3
    assert "container that allows seccomp filters" in report["refused"]
    assert report["survivors"] == []


def test_root_without_the_right_to_end_other_users_keeps_its_own_user(installation):
    """Programs of a user that the sandbox may not end would outlive their time limit."""
    setting = Setting(True, ("namespaces", "kill"))
    report = run_setting(installation, setting, runs=False).content
    assert report["layers"] == ["landlock", "seccomp", "own root directory"]
