"""The notebook of the documentation runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "first_run.ipynb"


@pytest.mark.slow
def test_the_first_run_learns(tmp_path: Path) -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=400, resources=where).execute()
    summary = json.loads((tmp_path / "runs" / "sums" / "summary.json").read_text())
    scores = {row["stage"]: row["pass_at_1"] for row in summary["results"]}
    assert list(scores) == ["base", "sft", "mgpo"]
    assert scores["base"] < 0.05 < scores["sft"]


def test_it_is_kept_without_its_output() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells)
