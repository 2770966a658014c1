"""The contract again on fake-gcs-server; tests/fake_gcs/test_differences.py tells the two stand-ins apart."""

from collections.abc import Callable, Iterator

import pytest

from app.model.values import ObjectRef
from app.storage.gcs.storage import GcsStorage
from tests.emulators import GcsServer, gcs_server
from tests.storage.contract import Put, StorageContract

pytestmark = pytest.mark.xdist_group("cloud")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    with gcs_server() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        server.make_bucket("landing")
        yield server


@pytest.fixture
def storage(server: GcsServer) -> Iterator[GcsStorage]:
    storage = GcsStorage("gs://landing")
    yield storage
    storage.close()


class TestGcsServer(StorageContract):
    @pytest.fixture
    def put(self, server: GcsServer) -> Put:
        return lambda name, data: ObjectRef("landing", name, server.upload("landing", name, data))

    @pytest.fixture
    def down(self, server: GcsServer) -> Callable[[], None]:
        return server.stop
