"""The directory of one run: its layout, atomic writes, stage status and the seeds derived from a
run's seed.

    runs/<name>/  recipe.yaml  recipe.resolved.yaml  manifest.json  base/  export/
        summary.json  ledger/<NNNN>-<start>.jsonl  report.html
        stages/<NN>-<stage>/  status.json  steps.jsonl  samples.jsonl  checkpoints/  ...

A stage is finished when its status.json exists; nothing in it is written afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibelite.errors import CheckpointError
from vibelite.storage import seal_directory, sync_file

NO_HASHES: Mapping[str, str] = {}
REMAKE_MODEL = (
    "restore it from a copy, or remove the directory of the stage that made it and run the same "
    "command, which makes it again"
)


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. derive_seed(0, "mgpo", step), which needs no saving."""
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def write_text_atomic(path: Path, text: str) -> None:
    """Replaces `path` whole: a process killed at any moment leaves the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk keeps no half of it
        raise
    os.replace(temporary, path)
    sync_file(path.parent)


def write_json_atomic(path: Path, value: Any) -> None:
    write_text_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def lines_of(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def write_jsonl_atomic(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text_atomic(path, lines_of(rows))


def read_json(path: Path) -> Any:
    """Raises CheckpointError if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); remove the stage's directory to redo it"
        ) from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file, if there is one; a torn last line, whose writer died, is left out."""
    if not path.exists():
        return
    # Bytes: a torn line may end within a character, and text may hold other kinds of line ends.
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and line.strip():
                yield json.loads(line)


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows and flushes them to the operating system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append_text(path, lines_of(rows))


def append_text(path: Path, text: str, *, is_synced: bool = False) -> None:
    """Appends all of `text` or, where the disk refuses, nothing: half a line would spoil the next.
    `is_synced`: it is on the disk when this returns.
    """
    rest = memoryview(text.encode("utf-8"))
    with open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise
        if is_synced:
            os.fsync(file.fileno())


def replace_directory(source: Path, target: Path, hashes: Mapping[str, str] = NO_HASHES) -> None:
    """Seals a completely written directory and moves it to its final name, whole on the disk when
    this returns; an older one of that name is dropped. `hashes` as for `seal_directory`.
    """
    seal_directory(source, hashes)
    aside = target.with_name(f".{target.name}.old")
    drop_directory(aside)
    if target.exists():
        os.replace(target, aside)
    os.replace(source, target)
    sync_file(target.parent)
    drop_directory(aside)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """An empty directory that becomes `target` where the block ends, and is dropped where it fails;
    as is first what a killed process left of an earlier attempt.
    """
    temporary = begin_directory(target)
    with dropped_on_failure(temporary):
        yield temporary
        replace_directory(temporary, target)


def begin_directory(target: Path) -> Path:
    """The empty directory to write in what shall be `target`."""
    temporary = temporary_of(target)
    drop_directory(temporary)
    temporary.mkdir(parents=True)
    return temporary


def temporary_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.tmp")


@contextmanager
def dropped_on_failure(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # the first error is the one to report
        raise


def drop_directory(path: Path) -> None:
    """Removes a directory, if there is one."""
    if path.exists():
        shutil.rmtree(path)


def existing_model(path: Path) -> Path:
    """`path`, or CheckpointError if there is no such directory."""
    if not path.is_dir():
        raise CheckpointError(f"{path.resolve()}: is missing; {REMAKE_MODEL}")
    return path.resolve()


@dataclass(frozen=True, slots=True)
class StageDir:
    """Where one stage keeps its files."""

    path: Path

    @property
    def status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def steps_path(self) -> Path:
        return self.path / "steps.jsonl"

    @property
    def samples_path(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def resume(self) -> Path:
        """Training state, needed until the stage is finished."""
        return self.path / "resume"

    @property
    def is_finished(self) -> bool:
        return self.status_path.exists()

    def finish(self, *, models: dict[str, Path], **details: Any) -> None:
        """Marks the stage finished and drops its training state.

        `models`: row name in the summary -> directory, the stage's own model last.
        """
        relative = {name: os.path.relpath(path, self.path) for name, path in models.items()}
        write_json_atomic(self.status_path, {"models": relative, **details})
        drop_directory(self.resume)

    def models(self) -> dict[str, Path]:
        """What `finish` was told; the last is the stage's. CheckpointError if one is gone."""
        return {
            name: existing_model(self.path / path)
            for name, path in read_json(self.status_path)["models"].items()
        }

    def kept_checkpoints(self) -> list[Path]:
        """Every model that a training stage kept, in order; CheckpointError if one is gone."""
        names = read_json(self.status_path)["checkpoints"]
        return [existing_model(self.checkpoints / name) for name in names]

    def truncate_after(self, step: int) -> int:
        """Drops the steps and samples after `step`, which a resumed stage writes anew; how many
        steps were recorded before.
        """
        num_steps = sum(1 for _ in read_jsonl(self.steps_path))
        for path in (self.steps_path, self.samples_path):
            if path.exists():
                write_jsonl_atomic(path, [row for row in read_jsonl(path) if row["step"] <= step])
        return num_steps

    def sync_records(self) -> None:
        """Returns when the steps and samples written so far are on the disk."""
        for path in (self.steps_path, self.samples_path):
            if path.exists():
                sync_file(path)


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where one run keeps its files."""

    path: Path

    def stage(self, index: int, name: str) -> StageDir:
        """The directory of the stage at `index` (0-based) of the recipe."""
        stage = StageDir(self.path / "stages" / f"{index:02d}-{name}")
        stage.path.mkdir(parents=True, exist_ok=True)
        return stage

    def find_stage(self, name: str) -> StageDir:
        """The directory of a stage that has been started; CheckpointError if there is none."""
        for path in sorted((self.path / "stages").glob(f"[0-9][0-9]-{name}")):
            return StageDir(path)
        raise CheckpointError(f"{self.path}: stage {name!r} has not run yet")

    @property
    def resolved_recipe_path(self) -> Path:
        return self.path / "recipe.resolved.yaml"

    @property
    def base_model(self) -> Path:
        """The model that the recipe starts with, as a Hugging Face directory."""
        return self.path / "base"

    @property
    def ledger_path(self) -> Path:
        """A directory: one file per start of the run."""
        return self.path / "ledger"

    @property
    def export_path(self) -> Path:
        return self.path / "export"
