"""The manifest repeats what was given, hashes by meaning, and knows its own checkout only."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

import vibelite
from vibelite.recipe.schema import Recipe
from vibelite.telemetry import manifest
from vibelite.telemetry.manifest import environment_manifest, git_state, recipe_hash


def make_recipe(**changes):
    fields = {
        "name": "trial",
        "seed": 5,
        "model": {"source": "tiny"},
        "data": {},
        "stages": [{"kind": "fuse"}],
    }
    return Recipe.model_validate(fields | changes)


def test_manifest_is_json_without_names_and_paths_of_this_machine():
    written = environment_manifest(make_recipe(), data_hashes={"train": "ab" * 32})
    text = json.dumps(written, allow_nan=False)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert written["hardware"]["memory_bytes"] == physical
    assert platform.node() not in json.dumps(written["hardware"]) or len(platform.node()) < 3
    assert written["seed"] == 5
    assert written["data_sha256"] == {"train": "ab" * 32}
    assert written["versions"]["torch"].startswith("2.")
    assert written["num_threads"] >= 1
    assert str(Path.home()) + os.sep not in text
    assert str(Path(vibelite.__file__).parents[1]) not in text


def test_recipe_hash_changes_with_values_and_not_with_defaults_written_out():
    assert recipe_hash(make_recipe()) == recipe_hash(make_recipe(num_threads=0))
    assert recipe_hash(make_recipe()) != recipe_hash(make_recipe(seed=6))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, in which the module under test seems to lie."""
    source = tmp_path / "manifest.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(manifest, "__file__", str(source))
    git(tmp_path, "init", "-q")
    return source


def git(directory, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.hooksPath="]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True)


def test_git_state_sees_commit_and_changes(checkout):
    git(checkout.parent, "add", "manifest.py")
    git(checkout.parent, "commit", "-q", "-m", "one")
    clean = git_state()
    assert re.fullmatch(r"[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    checkout.write_text("x = 2\n")
    assert git_state() == {"commit": clean["commit"], "dirty": True}


def test_repository_around_an_installed_copy_is_not_its_own(checkout):
    assert git_state() == {"commit": "unknown", "dirty": None}
