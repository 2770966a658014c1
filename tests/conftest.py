"""What many tests share: open services over a scratch lake, and a client that pushes to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import config
from app.api import create_app
from app.services import Services, open_services


def lake_settings(lake: Path, **arguments: object) -> config.Settings:
    """Return settings of a lake in one folder; `section__key` arguments go on top."""
    places = {
        "source.url": f"file:{lake / 'landing'}",
        "artifacts.url": f"file:{lake / 'output'}",
        "warehouse.url": f"sqlite:{lake / 'lake.db'}",
        "bus.url": f"local:{lake / 'lake.db'}",
        "workers.count": 1,
    }
    given = {name.replace("__", "."): value for name, value in arguments.items()}
    return config.load({}, {**places, **given}).settings


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = open_services(lake_settings(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def client(services: Services) -> TestClient:
    # Not entered as a context: the fixture above closes the services.
    return TestClient(create_app(services), raise_server_exceptions=False)
