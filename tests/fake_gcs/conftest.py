"""The server, and the real client on it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_gcs import FakeGcs
from tests.parts import need


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with FakeGcs() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        fake.make_bucket("landing")
        yield fake


@pytest.fixture
def client(gcs: FakeGcs) -> Iterator[Any]:
    try:
        from google.cloud import storage
    except ModuleNotFoundError:
        need("google-cloud-storage", False, "make .venv/.test")
    opened = storage.Client(project=None)
    yield opened
    opened.close()
