"""The heads that every test with a `backend` argument runs on."""

from __future__ import annotations

import pytest

from tests.kernels.problems import BACKENDS, Backend
from vibelite.kernels import chunked


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """An implementation and its device. With tiny tiles even small cases take several tiles of
    rows and of columns, as any real vocabulary does.
    """
    found: Backend = request.param
    if found.has_tiny_tiles:
        tiny = {"ROW_ELEMENTS": 3000, "BLOCK_ELEMENTS": 1000}
        for name, value in tiny.items():
            monkeypatch.setitem(getattr(chunked, name), found.device, value)
    return found
