"""Browsing from buckets: what is asked of the store, by the requests that a strict stand-in counts."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from app import pipeline
from app.browse.cache import Cache
from app.browse.frames import read_frame
from app.browse.instances import Instances
from app.browse.metadata import documents
from app.browse.objects import Originals
from app.model.values import EventType, ObjectRef
from app.services import Services, open_services
from app.sources.notifications import notification
from tests import data
from tests.browse.lake import NOON
from tests.conftest import lake_settings
from tests.data import SERIES, SOP, STUDY
from tests.dicom.pictures import JPEG_BASELINE, encapsulated, picture
from tests.fake_gcs import FakeGcs

pytestmark = pytest.mark.xdist_group("cloud")


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with FakeGcs() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        for bucket in ("landing", "out"):
            fake.make_bucket(bucket)
        yield fake


@pytest.fixture
def cloud(gcs: FakeGcs, tmp_path) -> Iterator[Services]:
    services = open_services(lake_settings(tmp_path, source__url="gs://landing", artifacts__url="gs://out"))
    yield services
    services.close()


def put(gcs: FakeGcs, services: Services, name: str, raw: bytes) -> None:
    version = gcs.put("landing", name, raw)
    ref = ObjectRef("landing", name, version.generation)
    pipeline.handle(notification(EventType.FINALIZE, ref, f"gs://landing/{name}", NOON), services)


def asked(gcs: FakeGcs) -> Counter[str]:
    """Return how often the store was asked for what since the last call."""
    found = Counter(
        f"{request.method} {'media' if request.query.get('alt') == 'media' else 'metadata'}"
        for request in gcs.requests
    )
    gcs.requests.clear()
    return found


def test_a_series_costs_a_read_an_instance_once_and_one_read_then(gcs, cloud):
    for number in range(20):
        put(gcs, cloud, f"{number}.dcm", data.ct(SOPInstanceUID=f"{SOP}.{number}"))
    found = Instances(cloud.warehouse).find(STUDY, SERIES)
    asked(gcs)
    first = b"".join(documents(found, "http://x", Originals(cloud, Cache(cloud.artifacts))))
    assert len(json.loads(first)) == 20
    counts = asked(gcs)
    assert counts["GET media"] == 21  # what may have been kept, and each document
    assert counts["POST metadata"] == 1
    again = b"".join(documents(found, "http://x", Originals(cloud, Cache(cloud.artifacts))))
    assert again == first
    assert asked(gcs) == {"GET media": 1}


def test_a_small_object_is_fetched_at_once_and_a_native_frame_as_a_range(gcs, cloud):
    put(gcs, cloud, "a.dcm", data.ct(Rows=512, Columns=512))
    stored = Instances(cloud.warehouse).one(STUDY, SERIES, SOP)
    originals = Originals(cloud, Cache(cloud.artifacts))
    asked(gcs)
    frame = read_frame(stored, 0, False, originals)
    assert len(b"".join(frame.pieces(originals))) == 2 * 512 * 512
    assert asked(gcs) == {"GET media": 2, "GET metadata": 1}  # document, range; that the version is there


def test_a_frame_of_a_big_object_is_a_range_of_it(gcs, cloud):
    frames = 40
    codestreams = [b"\xff\xd8\xff" + bytes(500_000) + bytes([n]) for n in range(frames)]
    dataset = data.identity()
    dataset.update(picture(encapsulated(*codestreams), 16, 16, JPEG_BASELINE, NumberOfFrames=frames))
    put(gcs, cloud, "a.dcm", data.part10(dataset, JPEG_BASELINE))
    stored = Instances(cloud.warehouse).one(STUDY, SERIES, SOP)
    originals = Originals(cloud, Cache(cloud.artifacts))
    read_frame(stored, 20, False, originals)
    # Another process: what was found out by the first is kept, and one range is read.
    other = Originals(cloud, Cache(cloud.artifacts))
    asked(gcs)
    frame = read_frame(stored, 30, False, other)
    assert b"".join(frame.pieces(other)) == codestreams[30]
    counts = asked(gcs)
    assert counts["GET media"] <= 3
