"""Probes are answered whatever else the service waits for."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from app.api.health import Probe
from app.model.errors import BusUnavailable, ObjectGone
from tests.api.test_server import serving
from tests.processes import wait_until
from tests.pushes import wrapped

PUSHES = 60
"""More than the 40 threads in which Starlette runs what is not async."""


class Held:
    """A source that has no object, and does not say so before it may."""

    def __init__(self, source):
        self.source, self.waiting, self.may = source, threading.Semaphore(0), threading.Event()

    def fetch(self, *_, **__):
        self.waiting.release()
        self.may.wait(60)
        raise ObjectGone("it is gone")

    def __getattr__(self, name):
        return getattr(self.source, name)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/version", "/", "/docs", "/openapi.json"])
def test_a_probe_does_not_wait_behind_pushes(services, tmp_path, path):
    file = tmp_path / "landing/a.dcm"
    file.write_bytes(b"no DICOM")
    held = Held(services.source)
    with (
        serving(replace(services, source=held)) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
        ThreadPoolExecutor(PUSHES) as senders,
    ):
        try:
            pushed = [senders.submit(client.post, "/", json=wrapped(file)) for _ in range(PUSHES)]
            assert all(held.waiting.acquire(timeout=30) for _ in range(40))
            assert client.get(path).status_code == 200
            assert not any(push.done() for push in pushed)
        finally:
            held.may.set()
        assert {push.result().status_code for push in pushed} == {204}


def test_a_part_that_hangs_is_named_and_holds_one_thread_however_often_it_is_asked(services):
    asked, may = [], threading.Event()

    class Hung:
        def check(self):
            asked.append(1)
            may.wait(60)

        def close(self):
            pass

    async def answers():
        probe = Probe(Hung().check, timeout_s=0.05)
        found = await asyncio.gather(*(probe.answer() for _ in range(50)), return_exceptions=True)
        assert {type(one) for one in found} == {TimeoutError}
        assert len(asked) == 1
        may.set()
        assert wait_until(lambda: probe.idle, 10)
        await probe.answer()
        assert len(asked) == 2

    asyncio.run(answers())


def test_a_part_that_hangs_makes_the_service_not_ready(services):
    may = threading.Event()

    class Hung:
        def check(self):
            may.wait(60)

        def depth(self):
            may.wait(60)

        def close(self):
            pass

    with (
        serving(replace(services, bus=Hung())) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        try:
            answer = client.get("/ready")
            assert client.get("/metrics").status_code == 200
        finally:
            may.set()
    assert answer.status_code == 503
    assert answer.json() == {
        **{"status": "unavailable", "source": "ok", "artifacts": "ok", "warehouse": "ok"},
        "bus": "deadline_exceeded",
    }


def test_an_answer_is_that_of_the_question():
    def fail():
        raise BusUnavailable("down")

    async def answers():
        assert await Probe(lambda: json.loads("7"), 10).answer() == 7
        with pytest.raises(BusUnavailable):
            await Probe(fail, 10).answer()

    asyncio.run(answers())
