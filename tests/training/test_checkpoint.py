"""A resumed run goes on bit for bit; what a killed process left behind is never used."""

import errno
import math
import os
import shutil
import subprocess
from pathlib import Path
from threading import Event

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystem

import vibelite.storage
import vibelite.training.checkpoint
from tests.policies import tiny_policy
from tests.saving import save_training_state
from tests.training.gradients import policy_in, set_gradients, train, weights_of
from vibelite.errors import CheckpointError, DiskFull
from vibelite.ranks.ranks import ONE_RANK
from vibelite.ranks.states import StateWriter
from vibelite.recipe.model_section import Training
from vibelite.recipe.run_section import Checkpoint
from vibelite.recipe.stage_section import Optimizer
from vibelite.storage import CHECKSUMS_NAME
from vibelite.training import checkpoint
from vibelite.training.checkpoint import (
    HEADER_BYTES,
    ModelWriter,
    SaveSchedule,
    best_interval,
    load_training_state,
    saved_steps,
    start_saving,
    state_of,
)
from vibelite.training.optim import PolicyOptimizer

CONFIG = Optimizer(kind="muon", lr=1e-3)
PARTS_NAME, METADATA_NAME = "__0_0_0.distcp", ".metadata"  # DCP's


@pytest.fixture
def untrained():
    policy = tiny_policy()
    return policy, PolicyOptimizer(policy, CONFIG, num_steps=10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["adamw", "muon", "adamw_cpu", "adamw_8bit"])
def test_resuming_equals_not_stopping_bit_for_bit(tmp_path, kind, dtype):
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    config, training = Optimizer(kind=kind, lr=1e-3), Training(dtype=dtype)

    def start(seed=0):
        policy = policy_in(dtype, seed)
        return policy, PolicyOptimizer(policy, config, num_steps=10, training=training)

    whole, optimizer = start()
    train(whole, optimizer, range(10))
    at_the_end = optimizer.state_dict()

    first, optimizer = start()
    train(first, optimizer, range(4))
    save_training_state(tmp_path, 4, first, optimizer)

    second, optimizer = start(seed=99)
    assert load_training_state(tmp_path, second, optimizer) == 4
    assert all(map(torch.equal, weights_of(first), weights_of(second)))
    train(second, optimizer, range(4, 10))
    assert all(map(torch.equal, weights_of(whole), weights_of(second)))
    # Weights of 16 bits could be the same over masters that are not.
    masters = optimizer.state_dict()["masters"]
    assert len(masters) == (0 if dtype == "float32" else len(weights_of(whole)))
    assert at_the_end["masters"].keys() == masters.keys()
    assert all(torch.equal(master, masters[i]) for i, master in at_the_end["masters"].items())
    assert optimizer.state_dict().get("loss_scale") == at_the_end.get("loss_scale")


def test_the_skipped_steps_of_a_scaled_loss_are_part_of_the_state(tmp_path):
    policy = tiny_policy()
    policy.model.half()
    training = Training(dtype="float16")
    optimizer = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=10, training=training)
    set_gradients(policy, 0, scale=torch.inf)
    optimizer.step(0)
    save_training_state(tmp_path, 1, policy, optimizer)
    resumed = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=10, training=training)
    load_training_state(tmp_path, policy, resumed)
    assert resumed.loss_scale == optimizer.loss_scale == 2**15
    set_gradients(policy, 1)
    assert resumed.step(1)["optimizer/skipped_steps"] == 1


def test_the_state_of_another_kind_is_refused(tmp_path, untrained):
    policy, optimizer = untrained
    save_training_state(tmp_path, 1, policy, optimizer)
    other = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=10)
    with pytest.raises(CheckpointError, match="kind muon, not adamw"):
        load_training_state(tmp_path, policy, other)


@pytest.mark.parametrize(("keep_last", "kept"), [(1, [6]), (2, [4, 6]), (9, [2, 4, 6])])
def test_the_newest_states_are_kept(tmp_path, untrained, keep_last, kept):
    policy, optimizer = untrained
    settings = Checkpoint(keep_last=keep_last)
    for step in (2, 4, 6):
        save_training_state(tmp_path, step, policy, optimizer, settings=settings)
    assert saved_steps(tmp_path) == kept


def test_a_half_written_state_is_not_seen_and_does_not_disturb(tmp_path, untrained):
    policy, optimizer = untrained
    train(policy, optimizer, [0])
    save_training_state(tmp_path, 1, policy, optimizer)
    half = tmp_path / ".step-000002.tmp"
    half.mkdir()
    (half / METADATA_NAME).write_bytes(b"torn")
    assert load_training_state(tmp_path, policy, optimizer) == 1
    save_training_state(tmp_path, 2, policy, optimizer)
    assert load_training_state(tmp_path, policy, optimizer) == 2


def test_no_state_means_step_zero(tmp_path, untrained):
    policy, optimizer = untrained
    assert load_training_state(tmp_path, policy, optimizer) == 0


def test_the_state_of_another_model_is_refused(tmp_path, untrained):
    policy, optimizer = untrained
    train(policy, optimizer, [0])
    save_training_state(tmp_path, 1, policy, optimizer)
    other = tiny_policy(num_layers=1)
    with pytest.raises(CheckpointError, match="another model"):
        load_training_state(tmp_path, other, PolicyOptimizer(other, CONFIG, num_steps=1))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def remove_directory(path):
    shutil.rmtree(path.parent)
    path.parent.mkdir()


DAMAGES = [flip_a_byte, truncate, Path.unlink, remove_directory]


@pytest.mark.parametrize("name", [PARTS_NAME, METADATA_NAME, CHECKSUMS_NAME])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_skipped_by_name_for_the_one_before(
    tmp_path, untrained, capsys, damage, name
):
    policy, optimizer = untrained
    train(policy, optimizer, [0])
    save_training_state(tmp_path, 1, policy, optimizer)
    expected = [weight.clone() for weight in weights_of(policy)]
    train(policy, optimizer, [1])
    save_training_state(tmp_path, 2, policy, optimizer)
    damage(tmp_path / "step-000002" / name)
    assert load_training_state(tmp_path, policy, optimizer) == 1
    assert all(map(torch.equal, expected, weights_of(policy)))
    (warning,) = capsys.readouterr().err.splitlines()
    named = CHECKSUMS_NAME if damage is remove_directory else name
    assert warning.startswith("warning: ") and "the state after step 2 is skipped" in warning
    assert f"step-000002/{named}" in warning or name == CHECKSUMS_NAME, warning

    # The state that replaces it is resumed from, and the damaged one does not outlive that.
    train(policy, optimizer, [1])
    save_training_state(tmp_path, 2, policy, optimizer)
    assert load_training_state(tmp_path, policy, optimizer) == 2


def test_a_damaged_state_of_a_later_step_is_gone_after_the_next_save(tmp_path, untrained):
    policy, optimizer = untrained
    for step in (1, 5):
        save_training_state(tmp_path, step, policy, optimizer)
    truncate(tmp_path / "step-000005" / PARTS_NAME)
    assert load_training_state(tmp_path, policy, optimizer) == 1
    save_training_state(tmp_path, 3, policy, optimizer)
    assert saved_steps(tmp_path) == [1, 3]


def test_nothing_starts_over_by_itself_when_every_state_is_damaged(tmp_path, untrained):
    policy, optimizer = untrained
    for step in (1, 2):
        save_training_state(tmp_path, step, policy, optimizer)
        truncate(tmp_path / f"step-{step:06d}" / PARTS_NAME)
    with pytest.raises(CheckpointError, match=r"none of the saved states \(2\) is whole"):
        load_training_state(tmp_path, policy, optimizer)


@pytest.fixture
def free(monkeypatch, tmp_path):
    """A disk of 100 MB on which only what is under tmp_path takes room; `free[0]` may be set."""
    size = [100_000_000]

    def free_bytes(path):
        return size[0] - sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())

    monkeypatch.setattr(vibelite.storage, "free_bytes", free_bytes)
    monkeypatch.setattr(vibelite.training.checkpoint, "free_bytes", free_bytes)
    return size


def state_bytes(tmp_path, step):
    return sum(file.stat().st_size for file in (tmp_path / f"step-{step:06d}").iterdir())


def test_what_does_not_fit_is_not_begun_and_superseded_states_go_first(tmp_path, untrained, free):
    policy, optimizer = untrained
    train(policy, optimizer, [0])
    settings = Checkpoint(keep_last=3, free_gib=0)
    for step in (1, 2):
        save_training_state(tmp_path, step, policy, optimizer, settings=settings)
    free[0] = 2 * state_bytes(tmp_path, 1) + HEADER_BYTES
    save_training_state(tmp_path, 3, policy, optimizer, settings=settings)
    assert saved_steps(tmp_path) == [2, 3], "step 1 made room"
    free[0] = state_bytes(tmp_path, 3) + HEADER_BYTES
    with pytest.raises(DiskFull, match=r"no room for a training state: it needs [\d,]+ bytes"):
        save_training_state(tmp_path, 4, policy, optimizer, settings=settings)
    assert saved_steps(tmp_path) == [3], "the last one stays"
    assert load_training_state(tmp_path, policy, optimizer) == 3
    with pytest.raises(DiskFull, match="no room for a model"):
        ModelWriter(policy, Checkpoint(free_gib=1)).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_last_whole_state_stays_when_a_newer_one_is_damaged(tmp_path, untrained, free):
    policy, optimizer = untrained
    settings = Checkpoint(keep_last=3, free_gib=0)
    for step in (1, 2, 3):
        save_training_state(tmp_path, step, policy, optimizer, settings=settings)
    flip_a_byte(tmp_path / "step-000003" / PARTS_NAME)
    free[0] = 0
    with pytest.raises(DiskFull):
        save_training_state(tmp_path, 4, policy, optimizer, settings=settings)
    assert saved_steps(tmp_path) == [2]


@pytest.mark.parametrize("what", ["a model", "a training state"])
def test_the_prediction_is_at_least_what_is_written_and_little_more(
    tmp_path, untrained, free, what, monkeypatch
):
    policy, optimizer = untrained
    train(policy, optimizer, [0])
    predicted = []
    monkeypatch.setattr(
        vibelite.training.checkpoint, "require_free", lambda _, size, **__: predicted.append(size)
    )
    if what == "a model":
        writer = ModelWriter(policy, Checkpoint())
        writer.save(tmp_path / "model")
        writer.wait()
    else:
        save_training_state(tmp_path, 1, policy, optimizer)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert written <= predicted[0] <= written + HEADER_BYTES


def test_a_state_that_remembers_other_problems_is_refused(tmp_path, untrained):
    policy, optimizer = untrained
    save_training_state(tmp_path, 1, policy, optimizer)
    extra = {"problem_counts": torch.zeros(3, 2)}
    with pytest.raises(CheckpointError, match="remembers other problems"):
        load_training_state(tmp_path, policy, optimizer, extra=extra)


def start_of_saving(tmp_path, policy, optimizer, writer, *, step, first):
    """Starts a save that goes on in the background."""
    directory = tmp_path / f"step-{step:06d}"
    state = state_of(policy, optimizer, {})
    start_saving(writer, directory, state, Checkpoint(free_gib=0), first)


def test_a_state_is_that_of_its_step_though_training_goes_on_before_it_is_written(
    tmp_path, untrained
):
    policy, optimizer = untrained
    train(policy, optimizer, range(4))
    may_end, writer = Event(), StateWriter(ONE_RANK)
    start_of_saving(tmp_path, policy, optimizer, writer, step=4, first=may_end.wait)
    train(policy, optimizer, range(4, 8))
    assert saved_steps(tmp_path) == [], "it is not whole"
    may_end.set()
    writer.wait()
    resumed = tiny_policy(seed=9)
    again = PolicyOptimizer(resumed, CONFIG, num_steps=10)
    assert load_training_state(tmp_path, resumed, again) == 4
    train(resumed, again, range(4, 8))
    assert all(map(torch.equal, weights_of(policy), weights_of(resumed)))


def test_one_state_is_written_at_a_time_and_none_without_what_belongs_before_it(
    tmp_path, untrained
):
    policy, optimizer = untrained
    writer, seen = StateWriter(ONE_RANK), []

    def fail():
        raise DiskFull("the model of this step")

    def look():
        seen.append(saved_steps(tmp_path))

    start_of_saving(tmp_path, policy, optimizer, writer, step=1, first=look)
    start_of_saving(tmp_path, policy, optimizer, writer, step=2, first=look)
    start_of_saving(tmp_path, policy, optimizer, writer, step=3, first=fail)
    with pytest.raises(DiskFull, match="the model of this step"):
        writer.wait()
    assert seen == [[], [1]], "each began after the one before it had ended"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000001", "step-000002"]


def test_files_are_hashed_on_their_way_to_the_disk(tmp_path, untrained, monkeypatch):
    policy, optimizer = untrained
    with monkeypatch.context() as patch:
        patch.setattr(vibelite.storage, "sha256_of", lambda path: pytest.fail(f"{path} is read"))
        save_training_state(tmp_path, 1, policy, optimizer)
    directory = tmp_path / "step-000001"
    assert len(list(directory.glob("*.distcp"))) == 4, "for as many threads"
    subprocess.run(["sha256sum", "--check", "--quiet", CHECKSUMS_NAME], cwd=directory, check=True)


def test_an_error_of_any_of_the_threads_that_write_is_raised(tmp_path, monkeypatch):
    """The last file alone does not fit."""
    create = FileSystem.create_stream

    def refuse(self, path, mode):
        if str(path).endswith("__0_3_0.distcp"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return create(self, path, mode)

    monkeypatch.setattr(FileSystem, "create_stream", refuse)
    policy = tiny_policy()
    with pytest.raises(DiskFull, match="No space left on device"):
        save_training_state(tmp_path, 1, policy, PolicyOptimizer(policy, CONFIG, num_steps=10))
    assert list(tmp_path.iterdir()) == []


def expected_overhead(interval, save, mtbf):
    """Daly 2006 (FGCS 22(3)), eq. 20: wall time per second of work when failures are exponential,
    without the factor of the restart, which does not depend on the interval.
    """
    return mtbf * (math.exp((interval + save) / mtbf) - 1) / interval


@pytest.mark.parametrize(("save", "mtbf"), [(0.5, 86_400), (1, 100_000), (30, 86_400)])
def test_no_other_interval_costs_noticeably_less(save, mtbf):
    chosen = expected_overhead(best_interval(save, mtbf), save, mtbf)
    for factor in (0.5, 0.7, 0.9, 1.1, 1.4, 2):
        other = expected_overhead(factor * best_interval(save, mtbf), save, mtbf)
        assert chosen <= other * 1.0005


def test_by_steps_counts_and_the_last_step_is_always_saved():
    schedule = SaveSchedule(Checkpoint(), every=4, num_steps=10)
    assert [step for step in range(1, 11) if schedule.is_due(step)] == [4, 8, 10]


def test_by_time_measures_with_the_first_step_and_then_waits_the_interval(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_FAILURES", 101)
    now = [0.0]
    schedule = SaveSchedule(Checkpoint(by="time"), every=1, num_steps=1000, clock=lambda: now[0])
    saves = []
    for step in range(1, 100):
        now[0] += 1
        if schedule.is_due(step):
            now[0] += 2
            schedule.saved(2.0)
            saves.append(step)
    # sqrt(2 x 2 x 101) = 20.1 seconds of training, in whole steps of one second.
    assert saves == [1, 22, 43, 64, 85]
