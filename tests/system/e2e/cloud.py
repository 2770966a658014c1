"""The lake as it is on Google Cloud, in one process tree: nothing of ours is replaced, only Google's ends.

Cloud Storage is the strict fake, Pub/Sub and BigQuery are emulators, the service is `dicomlake serve`, and
the real client libraries are between them.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from app.model.values import Row
from app.warehouse import open_warehouse
from tests.bq_front import Front
from tests.emulators import PubSubEmulator
from tests.fake_gcs import FakeGcs
from tests.system.e2e.deadletter_subscription import DeadLetterSubscription
from tests.system.e2e.relay import ACCOUNT, AUDIENCE, Relay
from tests.system.e2e.service import Service, until

PROJECT = "demo-project"


class Cloud:
    """What tests see of it: buckets, what was published and how it was answered, rows, the service."""

    def __init__(self, gcs: FakeGcs, relay: Relay, front: Front, service: Service) -> None:
        self.gcs, self.relay, self.front, self.service = gcs, relay, front, service
        self.warehouse = open_warehouse(service.env["DICOMLAKE__WAREHOUSE__URL"])
        options = {"api_endpoint": gcs.url}
        self.storage: Any = Client(PROJECT, AnonymousCredentials(), client_options=options)
        self.published: list[str] = []

    def upload(self, name: str, data: bytes, bucket: str = "landing") -> int:
        """Store an object through Google's client and return its generation."""
        blob = self.storage.bucket(bucket).blob(name)
        blob.upload_from_string(data, "application/dicom")
        return int(blob.generation)

    def delete(self, name: str, bucket: str = "landing") -> None:
        """Remove the live version of an object through Google's client."""
        self.storage.bucket(bucket).blob(name).delete()

    def settle(self, seconds: float = 60) -> None:
        """Wait until all that was published is acknowledged."""
        until(lambda: set(self.published) <= self.relay.acked(), seconds)
        assert set(self.published) <= self.relay.acked(), self.service.log.read_text()[-3000:]

    def artifacts(self, name: str = "") -> list[str]:
        """Return the names of the artifacts there are, or those of one object."""
        found = sorted(self.gcs.buckets["artifacts"].live)
        return [key for key in found if key.partition("/")[2].startswith(name)]

    def rows(self, table: str, name: str = "", bucket: str = "landing") -> list[Row]:
        """Return the rows of a table or view, or those of one object, oldest generation first."""
        chosen = " WHERE object_uri = @uri" if name else ""
        sql = f"SELECT * FROM {table}{chosen} ORDER BY generation, event_type"
        return self.warehouse.query(sql, {"uri": f"gs://{bucket}/{name}"} if name else {})

    def close(self) -> None:
        self.storage.close()
        self.warehouse.close()

    def keep_letter(self, row: Row) -> None:
        """Write a dead letter, as the BigQuery subscription does."""
        self.warehouse.append("dead_letter", [row])

    def wait_for_letter(self, uri: str, seconds: float = 120) -> None:
        """Wait until the view has an open letter of this object."""
        found = until(lambda: uri in {row["object_uri"] for row in self.rows("dead_letters")}, seconds)
        assert found, self.service.log.read_text()[-3000:]


@contextmanager
def running_cloud(
    folder: Path, emulator: PubSubEmulator, front: Front, versioned: Sequence[str] = (), **settings: object
) -> Iterator[Cloud]:
    """Run all of it, with the buckets `landing` and `versioned`; `settings` for it."""
    dataset = f"lake_{uuid.uuid4().hex[:8]}"
    front.emulator.create_dataset(PROJECT, dataset)
    topic, letters = emulator.topic("changes"), emulator.topic("letters")
    with ExitStack() as stack:
        gcs, relay = stack.enter_context(FakeGcs()), stack.enter_context(Relay())
        for bucket in ("landing", "artifacts", *versioned):
            gcs.make_bucket(bucket, versioning=bucket in versioned)
        subscription = emulator.push(topic, relay.url, letters)
        stack.callback(emulator.unsubscribe, subscription)
        service = Service(
            folder,
            source__url="gs://landing",
            source__buckets=json.dumps(list(versioned)),
            artifacts__url="gs://artifacts",
            warehouse__url=front.url(f"{PROJECT}.{dataset}"),
            bus__url=f"pubsub:{topic}",
            bus__subscription=subscription,
            bus__dead_letter_topic=letters,
            api__auth="oidc",
            api__audience=AUDIENCE,
            api__service_accounts=json.dumps([ACCOUNT]),
            api__keys_url=f"{relay.url}/keys",
            **settings,
        )
        service.env |= {"STORAGE_EMULATOR_HOST": gcs.url, "PUBSUB_EMULATOR_HOST": emulator.host}
        cloud = Cloud(gcs, relay, front, service)
        stack.callback(cloud.close)
        for bucket in ("landing", *versioned):
            gcs.subscribe(publisher(emulator, topic, cloud.published), bucket=bucket)
        stack.enter_context(DeadLetterSubscription(emulator, letters, cloud.keep_letter))
        stack.enter_context(service)
        relay.target = service.url
        yield cloud


def publisher(
    emulator: PubSubEmulator, topic: str, published: list[str]
) -> Callable[[dict[str, str], bytes], None]:
    def publish(attributes: dict[str, str], data: bytes) -> None:
        message = {"attributes": attributes, "data": data}
        published.extend(emulator.publisher.publish(topic=topic, messages=[message]).message_ids)

    return publish
