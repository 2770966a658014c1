from collections.abc import Iterator

import pytest

from tests.tansu import Broker, running_broker


@pytest.fixture(scope="session")
def session_broker() -> Iterator[Broker]:
    with running_broker() as broker:
        yield broker
