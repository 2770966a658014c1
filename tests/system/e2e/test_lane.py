"""A backlog in its own topic, two services that take pushes in turn, and uploads that overtake it."""

from itertools import cycle

import pytest

from tests.data import SOP, ct
from tests.emulators import PubSubEmulator
from tests.fake_gcs import FakeGcs
from tests.system.e2e.cloud import publisher
from tests.system.e2e.relay import ACCOUNT, AUDIENCE, Relay
from tests.system.e2e.service import Service, until

pytestmark = pytest.mark.xdist_group("cloud")

OBJECTS, LIVE = 200, 5


class Balancer(Relay):
    """Pushes to each of several services in turn, as Cloud Run does to instances."""

    def serve(self, services: list[Service]) -> None:
        self._urls = cycle([service.url for service in services])

    def forward(self, body: bytes) -> int:
        self.target = next(self._urls)
        return super().forward(body)


def test_uploads_overtake_a_backlog_that_two_services_work(tmp_path, pubsub: PubSubEmulator):
    topic, lane, letters = (pubsub.topic(name) for name in ("changes", "backfill", "letters"))
    with FakeGcs() as gcs, Balancer() as balancer:
        for bucket in ("landing", "artifacts"):
            gcs.make_bucket(bucket)
        for number in range(OBJECTS):
            gcs.put("landing", f"old/{number:04}.dcm", ct(SOPInstanceUID=f"{SOP}.{number}"))
        published: list[str] = []
        gcs.subscribe(publisher(pubsub, topic, published), bucket="landing")
        pushes = [pubsub.push(one, balancer.url, letters) for one in (topic, lane)]
        settings = {
            "source__url": "gs://landing",
            "artifacts__url": "gs://artifacts",
            "bus__url": f"pubsub:{topic}",
            "bus__subscription": ",".join(pushes),
            "bus__dead_letter_topic": letters,
            "backfill__topic": lane,
            "api__auth": "oidc",
            "api__audience": AUDIENCE,
            "api__service_accounts": f'["{ACCOUNT}"]',
            "api__keys_url": f"{balancer.url}/keys",
            "workers__count": 1,
        }
        services = [Service(tmp_path, **settings) for _ in range(2)]
        for service in services:
            service.env |= {"STORAGE_EMULATOR_HOST": gcs.url, "PUBSUB_EMULATOR_HOST": pubsub.host}
        with services[0], services[1]:
            balancer.serve(services)
            listed = services[0].run("backfill", "gs://landing/")
            assert f"published: {OBJECTS}\n" in listed.stdout, listed.stderr
            for number in range(LIVE):
                gcs.put("landing", f"live/{number}.dcm", ct(SOPInstanceUID=f"{SOP}.9.{number}"))
                assert until(lambda: set(published) <= balancer.acked())
            behind = OBJECTS + LIVE - len(balancer.acked())
            assert until(lambda: len(balancer.acked()) == OBJECTS + LIVE)
            assert behind > 0
            rows = services[0].rows("SELECT object_uri, row_id FROM instances")
            for subscription in pushes:
                pubsub.unsubscribe(subscription)
    assert len({row["object_uri"] for row in rows}) == len(rows) == OBJECTS + LIVE
