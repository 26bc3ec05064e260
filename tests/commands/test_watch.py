"""`vibelite watch` of a directory of runs."""

import shutil

from typer.testing import CliRunner

from vibelite import cli


def test_a_directory_of_runs_is_listed(nano_run, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(nano_run, tmp_path / name)
    (tmp_path / "no run").mkdir()
    done = CliRunner().invoke(cli.app, ["watch", str(tmp_path)])
    assert done.exit_code == 0, done.output
    header, _, *rows = done.stdout.splitlines()
    assert header.split() == ["run", "state", "last", "step", "reward", "cost"]
    assert [row.split()[:2] for row in rows] == [["first", "Finished"], ["second", "Finished"]]
    assert all("ago" in row and "0.000" in row for row in rows)
