"""What is on the disk, and when."""

from __future__ import annotations

import os
from pathlib import Path

from vibelite.run_dir import new_directory
from vibelite.storage import CHECKSUMS_NAME


def test_a_directory_has_its_name_only_when_all_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch
) -> None:
    done: list[str] = []
    target = tmp_path / "model"

    def fsync(descriptor: int, really=os.fsync) -> None:
        done.append(
            f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(tmp_path)}"
        )
        really(descriptor)

    def replace(source: Path, destination: Path, really=os.replace) -> None:
        done.append("rename")
        really(source, destination)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with new_directory(target) as temporary:
        (temporary / "part").mkdir()
        (temporary / "weights").write_text("w")
        (temporary / "part" / "rows").write_text("r")
        name = temporary.name
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    inside = ("weights", "part/rows", CHECKSUMS_NAME, "part")
    assert {f"fsync {name}/{path}" for path in inside} | {f"fsync {name}"} <= set(before)
    # Names are on the disk after what they name.
    assert before.index(f"fsync {name}") > before.index(f"fsync {name}/{CHECKSUMS_NAME}")
    assert "fsync ." in after
