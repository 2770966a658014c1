"""BigQuery for tests: the session's emulator behind its strict front, and a dataset a test."""

import pytest

from app.warehouse import open_warehouse

PROJECT = "demo-project"


@pytest.fixture
def front(session_front):
    session_front.reset()
    return session_front


@pytest.fixture
def dataset(front, request):
    name = f"lake_{abs(hash(request.node.nodeid))}"
    front.emulator.create_dataset(PROJECT, name)
    return f"{PROJECT}.{name}"


@pytest.fixture
def bigquery(front, dataset):
    warehouse = open_warehouse(front.url(dataset))
    yield warehouse
    warehouse.close()
