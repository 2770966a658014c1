"""What many tests share: open services over a scratch lake, a client that pushes to them, the emulators.

Tests that use an emulator are of the xdist group `cloud`: one worker runs them, so there is one of each.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck

from app import config
from app.api import create_app
from app.services import Services, open_services

if TYPE_CHECKING:
    from tests.bq_front import Front
    from tests.emulators import PubSubEmulator


# How long it takes to make an example, or to try one, is no fault on a machine that does other things too.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")
# A shell that runs this in the background has it ignored, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: a file made anew may differ, and xdist's workers must agree on names."""
    return argname if isinstance(val, bytes) else None


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


@pytest.fixture(scope="session")
def pubsub() -> Iterator["PubSubEmulator"]:
    """Google's emulator of Pub/Sub, started once; names in it are new for each use."""
    from tests.emulators import pubsub_emulator  # late: the SDKs cost every other test run a second

    with pubsub_emulator() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def session_front() -> Iterator["Front"]:
    """An emulator of BigQuery behind the strict front, started once; each use has a dataset of its own."""
    from tests.bq_emulator import running_emulator
    from tests.bq_front import running_front

    with running_emulator() as emulator, running_front(emulator) as front:
        yield front
