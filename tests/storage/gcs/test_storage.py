"""A bucket through the real client and a strict stand-in: the contract, and what only a cloud does."""

import gzip
import importlib
import inspect
import io
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import google.api_core.exceptions
import google.auth.exceptions
import google.cloud.storage.exceptions
import pytest
import requests.exceptions
import urllib3.exceptions

from app.model.errors import (
    BadDataset,
    BadEvent,
    ConfigError,
    DicomlakeError,
    LimitExceeded,
    ObjectGone,
    ShortRead,
    StorageUnavailable,
)
from app.model.values import Message, ObjectRef, Status
from app.pipeline import handle
from app.services import Services, open_services
from app.sources.notifications import described_again
from app.storage import open_storage
from app.storage.gcs import stream as gcs_stream
from app.storage.gcs.client import gcs_errors
from app.storage.gcs.storage import GcsStorage, object_name
from app.storage.gzip_encoding import inflated
from app.workers.pool import Workers
from tests.archives import zipped
from tests.conftest import lake_settings
from tests.data import ct
from tests.fake_gcs import ROLES, FakeGcs, Request, Version
from tests.parts import ROOT
from tests.storage.contract import Put, StorageContract
from tests.workers.tasks import read_ranges

MIB = 2**20


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with FakeGcs() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        fake.make_bucket("landing")
        yield fake


@pytest.fixture
def storage(gcs: FakeGcs) -> Iterator[GcsStorage]:
    storage = GcsStorage("gs://landing")
    yield storage
    storage.close()


@pytest.fixture
def put(gcs: FakeGcs) -> Put:
    return lambda name, data: ref(gcs.put("landing", name, data))


def ref(version: Version) -> ObjectRef:
    return ObjectRef(version.bucket, version.name, version.generation)


def asked(gcs: FakeGcs) -> list[str]:
    """Return the requests so far: method, and what of the object."""
    return [
        f"{request.method} {'media' if request.query.get('alt') == 'media' else 'metadata'}"
        for request in gcs.requests
    ]


class TestGcs(StorageContract):
    @pytest.fixture
    def down(self, gcs: FakeGcs) -> Callable[[], None]:
        return gcs.stop


def test_bucket_with_versions_still_has_an_overwritten_one(
    storage: GcsStorage, gcs: FakeGcs, put: Put
) -> None:
    gcs.buckets["landing"].versioning = True
    old, new = put("a", b"old"), put("a", b"new")
    assert storage.fetch(old).data == b"old"
    assert storage.locate(old).open().read() == b"old"
    assert list(storage.list()) == [new]
    storage.delete("a")
    assert list(storage.list()) == []


def test_a_version_is_live_with_its_present_metageneration_only(storage: GcsStorage, put: Put) -> None:
    found = put("a", b"x")
    assert [storage.is_live(found, number) for number in (None, 1, 2)] == [True, True, False]
    blob = storage._client().bucket("landing").blob("a")
    blob.metadata = {"reviewed": "yes"}
    blob.patch()
    assert [storage.is_live(found, number) for number in (None, 1, 2)] == [True, False, True]


# Where things are


def test_prefix_is_of_bare_names_and_not_of_refs(gcs: FakeGcs) -> None:
    for url in ("gs://landing/in/box", "gs://landing/in/box/"):
        storage = GcsStorage(url)
        assert (storage.bucket, storage.prefix) == ("landing", "in/box/")
        assert storage.uri("a b%20/é.dcm") == "gs://landing/in/box/a b%20/é.dcm"
        assert storage.uri("in/box/a", "landing") == "gs://landing/in/box/a"
        assert storage.uri("x", "other") == "gs://other/x"
    written = storage.write("metadata/a.json", b"{}", "application/json")
    assert written == storage.uri("metadata/a.json") == "gs://landing/in/box/metadata/a.json"
    gcs.put("landing", "outside/metadata/a.json", b"")
    (found,) = storage.list("metadata/")
    assert found.name == "in/box/metadata/a.json"
    assert storage.fetch(found).uri == written
    storage.delete("metadata/a.json")
    assert list(gcs.buckets["landing"].live) == ["outside/metadata/a.json"]


@pytest.mark.parametrize("url", ["gs:landing", "gs://", "gs:///a", "gs://a", "gs://UPPER", "gs://b_/a"])
def test_url_that_names_no_bucket_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="gs://bucket/prefix"):
        GcsStorage(url)


@pytest.mark.parametrize("prefix", ["a//b", "a/../b", "./a", "line\nbreak", "x" * 1025])
def test_prefix_that_is_no_path_is_a_config_error(prefix: str) -> None:
    with pytest.raises(ConfigError, match="gs://bucket/prefix"):
        GcsStorage(f"gs://landing/{prefix}")


def test_further_bucket_is_served_only_when_named(gcs: FakeGcs) -> None:
    gcs.make_bucket("second")
    there = ref(gcs.put("second", "a", b"x"))
    content = GcsStorage("gs://landing/in", None, ("second",)).fetch(there, 1)
    assert (content.data, content.uri) == (b"x", "gs://second/a")
    with pytest.raises(BadEvent):
        GcsStorage("gs://landing/in").fetch(there)


def test_illegal_name_becomes_a_digest_in_its_folder() -> None:
    assert object_name("out/", "images/a.1.png") == "out/images/a.1.png"
    assert object_name("out/", "a/../b") == "out/a/../b"  # the store has no folders, so this leads nowhere
    # printf 'images/a\nb.1.png' | sha256sum
    digest = "eb4b945deb15f6594e8fb4e4353562b2f67e64e34675c465de1d1fcc4107d34c"
    assert object_name("out/", "images/a\nb.1.png") == f"out/images/%~{digest}.png"


def test_names_too_long_with_the_prefix_are_escaped() -> None:
    assert object_name("", "x" * 1024) == "x" * 1024
    assert len(object_name("out/", "x" * 1021)) == len("out/%~") + 64
    taken = object_name("", "x" * 1025)
    assert object_name("", taken) != taken  # so nobody can take the place of another by its name


# Reading


def test_fetch_of_a_notified_object_is_one_pinned_request(
    storage: GcsStorage, gcs: FakeGcs, put: Put
) -> None:
    found = put("a b/é.dcm", b"123456789")
    storage.fetch(found, 9, "4waSgw==")
    (request,) = gcs.requests
    assert request.target.startswith("/download/storage/v1/b/landing/o/a%20b%2F%C3%A9.dcm?alt=media")
    pinned = str(found.generation)
    assert (request.query["generation"], request.query["ifGenerationMatch"]) == (pinned, pinned)


def test_object_of_unknown_size_is_looked_at_first(storage: GcsStorage, gcs: FakeGcs, put: Put) -> None:
    storage.fetch(put("a", b"x"))
    assert asked(gcs) == ["GET metadata", "GET media"]


@pytest.mark.parametrize("fault", [408, 429, 500, 502, 503, 504, "reset", "short", "truncated", "corrupt"])
def test_passing_fault_of_a_read_heals(storage: GcsStorage, gcs: FakeGcs, put: Put, fault: str | int) -> None:
    found = put("a", b"123456789")
    gcs.fail(fault)
    assert storage.fetch(found, 9, "4waSgw==").data == b"123456789"
    assert len(gcs.requests) == 2


@pytest.mark.parametrize("fault", ["corrupt", "wrong_hash", "short"])
def test_bytes_that_stay_wrong_are_a_short_read(
    storage: GcsStorage, gcs: FakeGcs, put: Put, fault: str
) -> None:
    found = put("a", b"123456789")
    gcs.fail(fault, times=3)
    with pytest.raises(ShortRead):
        storage.fetch(found, 9, "4waSgw==")
    assert len(gcs.requests) == 3


@pytest.mark.parametrize(("status", "requests"), [(400, 1), (403, 1), (503, 3)])
def test_refusal_is_transient_but_not_tried_at_once(
    storage: GcsStorage, gcs: FakeGcs, put: Put, status: int, requests: int
) -> None:
    found = put("secret name", b"x")
    gcs.fail(status, times=10)
    with pytest.raises(StorageUnavailable) as raised:
        storage.fetch(found, 1)
    assert len(gcs.requests) == requests
    assert "secret" not in raised.value.text


def test_body_that_drips_is_given_up(
    storage: GcsStorage, gcs: FakeGcs, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = put("a", bytes(300_000))
    monkeypatch.setattr(gcs_stream, "DEADLINE_S", 0.1)
    gcs.fail("slow", times=3, seconds=0.05)
    with pytest.raises(StorageUnavailable, match="slow"):
        storage.fetch(found, 300_000)


def test_store_that_says_nothing_is_given_up(
    storage: GcsStorage, gcs: FakeGcs, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = put("a", b"x")
    monkeypatch.setattr(gcs_stream, "TIMEOUT_S", (0.1, 0.1))
    gcs.fail("hang", times=3, seconds=0.3)
    with pytest.raises(StorageUnavailable):
        storage.fetch(found, 1)


def test_sequential_reads_share_requests(storage: GcsStorage, gcs: FakeGcs, put: Put) -> None:
    data = bytes(range(256)) * 4 * 1024 * 5  # 5 MiB
    with storage.locate(put("a", data)).open() as stream:
        assert b"".join(iter(lambda: stream.read(65_536), b"")) == data
        assert asked(gcs) == ["GET metadata", *["GET media"] * 3]
        stream.seek(0)
        assert stream.read(4) == b"\0\1\2\3"
        stream.seek(1000)
        assert stream.read(1) == data[1000:1001]
        assert len(gcs.requests) == 5
        stream.seek(0)
        assert stream.read() == data
    assert len(gcs.requests) <= 6
    pins = {request.query["generation"] for request in gcs.requests}
    assert len(pins) == 1


def test_stream_heals_and_ends_when_its_version_does(storage: GcsStorage, gcs: FakeGcs, put: Put) -> None:
    stream = storage.locate(put("a", bytes(3 * MIB))).open()
    gcs.fail("short")
    assert stream.read(MIB) == bytes(MIB)
    put("a", b"new")
    stream.seek(2 * MIB)
    with pytest.raises(ObjectGone):
        stream.read(1)


def test_big_object_is_read_in_ranges_by_a_worker(storage: GcsStorage, gcs: FakeGcs, put: Put) -> None:
    found = put("big", b"abc" + bytes(65 * MIB) + b"xyz")
    crc = gcs.buckets["landing"].live["big"].crc32c
    content = storage.fetch(found, 65 * MIB + 6, crc)
    assert (content.data, content.size, content.crc32c) == (None, 65 * MIB + 6, crc)
    assert asked(gcs) == ["GET metadata"]
    workers = Workers(1, 64 * MIB, 30.0, preload=("tests.workers.tasks",))
    try:
        ends = workers.run(read_ranges, content, [(0, 3), (65 * MIB + 3, 3)])
        assert ends == [b"abc", b"xyz", b"68157446"]
    finally:
        workers.close()
    assert asked(gcs) == ["GET metadata", "GET media", "GET media"]
    with pytest.raises(ShortRead):
        storage.fetch(found, 65 * MIB + 6, "AAAAAA==")


# Objects with contentEncoding gzip


def test_gzip_encoded_object_is_checked_as_stored_and_read_inflated(
    storage: GcsStorage, gcs: FakeGcs
) -> None:
    stored = gzip.compress(b"123456789", mtime=0)
    version = gcs.put("landing", "a.dcm", stored, contentEncoding="gzip")
    content = storage.fetch(ref(version), len(stored), version.crc32c)
    assert (content.data, content.size, content.crc32c) == (stored, len(stored), version.crc32c)
    assert content.at_hand is None
    assert pickle.loads(pickle.dumps(content)).open().read() == b"123456789"
    with storage.locate(ref(version)).open() as stream:
        stream.seek(-2, 2)
        assert stream.read() == b"89"


def test_object_that_only_says_it_is_gzip_is_read_as_it_is(storage: GcsStorage, gcs: FakeGcs) -> None:
    version = gcs.put("landing", "a.dcm", b"123456789", contentEncoding="gzip")
    assert storage.fetch(ref(version), 9).open().read() == b"123456789"


def test_broken_gzip_and_bomb_are_permanent() -> None:
    whole = gzip.compress(bytes(3 * MIB))
    assert len(inflated(io.BytesIO(whole), 3 * MIB).read()) == 3 * MIB
    with pytest.raises(LimitExceeded):
        inflated(io.BytesIO(whole), 3 * MIB - 1)
    for broken in (whole[:-5], whole[:100] + b"\xff" * 100 + whole[200:]):
        with pytest.raises(BadDataset):
            inflated(io.BytesIO(broken))


# Writing


def test_write_sets_type_and_forbids_caches(storage: GcsStorage, gcs: FakeGcs) -> None:
    storage.write("a.png", b"png", "image/png")
    assert gcs.buckets["landing"].live["a.png"].settings == {
        "contentType": "image/png",
        "cacheControl": "private, no-store",
    }


def test_repeated_write_of_the_same_bytes_changes_nothing(storage: GcsStorage, gcs: FakeGcs) -> None:
    told: list[str] = []
    gcs.subscribe(lambda attributes, _: told.append(attributes["eventType"]))
    for _ in range(3):
        storage.write("a", b"same", "text/plain")
    assert told == ["OBJECT_FINALIZE"]
    storage.write("a", b"other", "text/plain")
    assert told == ["OBJECT_FINALIZE", "OBJECT_FINALIZE", "OBJECT_DELETE"]
    assert gcs.buckets["landing"].live["a"].data == b"other"


@pytest.mark.parametrize("fault", [429, 503, "reset", "lost"])
@pytest.mark.parametrize("before", [None, b"other"])
def test_passing_fault_of_a_write_heals_and_stores_once(
    storage: GcsStorage, gcs: FakeGcs, fault: str | int, before: bytes | None
) -> None:
    if before:
        gcs.put("landing", "a", before)
    told: list[str] = []
    gcs.subscribe(
        lambda attributes, _: told.append(attributes["eventType"]), event_types=("OBJECT_FINALIZE",)
    )
    gcs.fail(fault, method="POST")
    storage.write("a", b"new", "text/plain")
    assert gcs.buckets["landing"].live["a"].data == b"new"
    assert told == ["OBJECT_FINALIZE"]


class Meanwhile(list[Request]):
    """Requests as they come; `happens` once, just before the next one of `method` is answered."""

    def __init__(self, method: str, happens: Callable[[], object]) -> None:
        super().__init__()
        self.method, self.happens = method, happens

    def append(self, request: Request) -> None:
        super().append(request)
        if request.method == self.method:
            self.method = ""
            self.happens()


def test_object_removed_while_it_is_overwritten_is_written(storage: GcsStorage, gcs: FakeGcs) -> None:
    gcs.put("landing", "a", b"old")
    gcs.requests = Meanwhile("GET", lambda: gcs.delete("landing", "a"))
    storage.write("a", b"new", "")
    assert gcs.buckets["landing"].live["a"].data == b"new"


def test_last_of_two_writers_wins(storage: GcsStorage, gcs: FakeGcs) -> None:
    gcs.put("landing", "a", b"old")

    def another_writes_before_our_second_try() -> None:
        gcs.requests = Meanwhile("POST", lambda: gcs.put("landing", "a", b"theirs"))

    gcs.requests = Meanwhile("GET", another_writes_before_our_second_try)
    storage.write("a", b"ours", "")
    assert gcs.buckets["landing"].live["a"].data == b"theirs"


def test_big_write_is_resumable_and_checked(storage: GcsStorage, gcs: FakeGcs) -> None:
    data = bytes(range(256)) * 4 * 1024 * 9  # 9 MiB
    storage.write("big", data, "image/png")
    assert gcs.buckets["landing"].live["big"].data == data
    assert [request.method for request in gcs.requests] == ["POST", "PUT"]


# Listing, rights, errors


def test_list_follows_pages_and_heals_within(storage: GcsStorage, gcs: FakeGcs, put: Put) -> None:
    names = [f"{number:04}" for number in range(5)]
    for name in names:
        put(name, b"x")
    gcs.api.page_objects = 2
    listed = storage.list()
    assert [next(listed).name for _ in range(2)] == names[:2]
    gcs.fail(503)
    assert [found.name for found in listed] == names[2:]
    assert len(gcs.requests) == 4


def test_roles_of_objects_are_enough(storage: GcsStorage, gcs: FakeGcs, put: Put) -> None:
    gcs.grants = ROLES["objectViewer"]
    storage.check()
    assert storage.fetch(put("a", b"x"), 1).data == b"x"
    with pytest.raises(ObjectGone):
        storage.fetch(ObjectRef("landing", "gone", 1), 1)
    gcs.grants = ROLES["objectUser"]
    storage.check()
    storage.write("b", b"x", "")
    storage.write("b", b"y", "")
    storage.delete("b")
    asked_for_bucket = [r.target for r in gcs.requests if r.target.partition("?")[0].endswith("/b/landing")]
    assert asked_for_bucket == []


def test_check_fails_without_rights_or_bucket(storage: GcsStorage, gcs: FakeGcs) -> None:
    gcs.grants = set()
    with pytest.raises(StorageUnavailable, match="Forbidden"):
        storage.check()
    gcs.grants = None
    with pytest.raises(StorageUnavailable, match="NotFound"):
        GcsStorage("gs://nowhere").check()


def test_missing_bucket_is_an_outage_for_writes(gcs: FakeGcs) -> None:
    storage = GcsStorage("gs://nowhere")
    with pytest.raises(StorageUnavailable):
        storage.write("a", b"x", "")
    with pytest.raises(StorageUnavailable):
        list(storage.list())


def modules(*roots: ModuleType) -> Iterator[ModuleType]:
    for root in roots:
        yield root
        for found in pkgutil.walk_packages(getattr(root, "__path__", []), f"{root.__name__}."):
            yield importlib.import_module(found.name)


def sdk_errors() -> list[type[Exception]]:
    """Return every exception that the SDK, and what it stands on, defines."""
    found = {
        value
        for module in modules(
            google.cloud.storage,
            google.api_core.exceptions,
            google.auth.exceptions,
            requests.exceptions,
            urllib3.exceptions,
        )
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and not issubclass(value, Warning)
        if value.__module__.startswith(("google.", "requests.", "urllib3."))
        if not value.__module__.startswith("google.resumable_media.")  # only parents, no longer raised
    }
    found.remove(google.api_core.exceptions.AsyncRestUnsupportedParameterError)  # of another transport
    found.remove(google.cloud.storage.exceptions.InvalidPathError)  # of downloads into a folder
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


@pytest.mark.parametrize("kind", sdk_errors(), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_error_of_the_sdk_is_translated(kind: type[Exception]) -> None:
    with pytest.raises(DicomlakeError) as raised, gcs_errors():
        raise kind.__new__(kind)
    assert isinstance(raised.value, StorageUnavailable | ShortRead)


def test_error_that_is_ours_to_see_is_not_translated() -> None:
    with pytest.raises(ZeroDivisionError), gcs_errors():
        raise ZeroDivisionError


# Start-up


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


def test_opening_imports_no_sdk() -> None:
    opened = "from app.storage import open_storage; open_storage('source', 'gs://landing/in')"
    heavy = ("google.cloud.storage", "google.auth", "requests", "grpc")
    found = f"print([name for name in sys.modules if name.startswith({heavy})])"
    assert run(f"import sys; {opened}; {found}") == "[]"


def test_missing_sdk_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.delitem(sys.modules, "app.storage.gcs.storage")
    with pytest.raises(ConfigError, match=r"dicomlake\[gcp\]; google.cloud.storage is not installed"):
        open_storage("source", "gs://landing")


# In the pipeline


@pytest.fixture
def messages(gcs: FakeGcs) -> list[Message]:
    told: list[Message] = []
    gcs.subscribe(
        lambda attributes, data: told.append(Message(data, attributes, str(len(told)))), bucket="landing"
    )
    gcs.make_bucket("output")
    return told


@pytest.fixture
def services(messages: list[Message], tmp_path: Path) -> Iterator[Services]:
    settings = lake_settings(tmp_path, source__url="gs://landing", artifacts__url="gs://output/lake")
    with closing(open_services(settings)) as opened:
        yield opened


def test_upload_becomes_a_row_and_delete_a_tombstone(
    gcs: FakeGcs, messages: list[Message], services: Services
) -> None:
    version = gcs.put("landing", "study/ct.dcm", ct())
    assert handle(messages[0], services).status is Status.STORED
    stem = f"study/ct.dcm.{version.generation}"
    names = [f"lake/images/{stem}.png", f"lake/metadata/{stem}.json"]
    assert sorted(gcs.buckets["output"].live) == names
    (row,) = services.warehouse.query("select object_uri, preview_uri from instances_current")
    assert row["object_uri"] == "gs://landing/study/ct.dcm"
    assert row["preview_uri"] == f"gs://output/{names[0]}"
    gcs.delete("landing", "study/ct.dcm")
    assert handle(messages[1], services).status is Status.DELETED
    assert handle(messages[0], services).status is Status.SUPERSEDED
    assert gcs.buckets["output"].live == {}
    assert services.warehouse.query("select 1 from instances_current") == []


def test_a_removal_of_a_generation_of_the_day_after_tomorrow_is_no_event(
    messages: list[Message], services: Services
) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    microseconds = 1_772_366_400_000_000  # of that noon since 1970
    then = replace(services, now=lambda: noon)
    for generation, kind in ((microseconds, "OBJECT_DELETE"), (1, "OBJECT_ARCHIVE")):
        assert handle(removal(kind, generation + 86_400_000_000), then).status is Status.DELETED
    for kind in ("OBJECT_DELETE", "OBJECT_ARCHIVE"):
        with pytest.raises(BadEvent, match="objectGeneration: is no version that this object ever had"):
            handle(removal(kind, microseconds + 86_400_000_001), then)
        with pytest.raises(BadEvent):
            handle(removal(kind, 2**63 - 1), then)
    assert services.warehouse.query("select count(*) as n from instances") == [{"n": 2}]


def removal(kind: str, generation: int) -> Message:
    attributes = {"eventType": kind, "bucketId": "landing", "objectId": "ct.dcm"}
    attributes |= {"objectGeneration": str(generation), "payloadFormat": "NONE"}
    return Message(b"", attributes, "1")


@pytest.mark.parametrize("revision", [None, 1_700_000_000], ids=["first", "revision"])
@pytest.mark.parametrize("data", [ct(), zipped([("1", ct()), ("2", ct())])], ids=["object", "archive"])
def test_a_removal_lists_once_and_removes_exactly_what_is_of_the_version(
    gcs: FakeGcs, messages: list[Message], services: Services, data: bytes, revision: int | None
) -> None:
    version = gcs.put("landing", "x/a", data)
    handle(messages[0], services)
    if revision:
        handle(described_again(messages[0], revision, 1), services)
    gcs.put("landing", f"x/a.{version.generation}.r7", ct())  # its artifacts begin with the same name
    handle(messages[1], services)
    kept = {name for name in gcs.buckets["output"].live if f"{version.generation}.r7." in name}
    assert len(kept) == 2
    gcs.delete("landing", "x/a")
    gcs.billed.clear()
    handle(messages[2], services)
    assert set(gcs.buckets["output"].live) == kept
    assert (gcs.billed["A"], gcs.billed["B"]) == (1, 0)


def test_of_a_big_object_only_what_is_needed_is_read(
    gcs: FakeGcs, messages: list[Message], services: Services
) -> None:
    raw = ct(NumberOfFrames=40, Rows=1024, Columns=1024, PixelData=bytes(40 * 1024 * 1024 * 2))
    version = gcs.put("landing", "big.dcm", raw)
    assert handle(messages[0], services).status is Status.STORED
    (row,) = services.warehouse.query("select preview_error, number_of_frames, size_bytes from instances")
    assert row == {"preview_error": None, "number_of_frames": 40, "size_bytes": len(raw)}
    assert f"lake/images/big.dcm.{version.generation}.png" in gcs.buckets["output"].live
    ranges = [request.headers["range"] for request in gcs.requests if "range" in request.headers]
    assert 0 < len(ranges) < 8


def test_what_is_stored_gzip_encoded_is_handled_as_what_it_holds(
    gcs: FakeGcs, messages: list[Message], services: Services
) -> None:
    for name, data in {"ct.dcm": ct(), "a.zip": zipped([("1.dcm", ct()), ("2.dcm", ct())])}.items():
        gcs.put("landing", name, gzip.compress(data), contentEncoding="gzip")
    assert [handle(message, services).status for message in messages] == [Status.STORED] * 2
    rows = services.warehouse.query("select member, preview_error from instances order by member")
    assert rows == [{"member": member, "preview_error": None} for member in (None, "1.dcm", "2.dcm")]


def test_nothing_that_is_gzip_encoded_is_inflated_by_the_server(
    gcs: FakeGcs, messages: list[Message], services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflating: list[object] = []
    monkeypatch.setattr(gzip, "GzipFile", inflating.append)  # as this process sees it: workers have their own
    services.workers.warm()
    gcs.put("landing", "ct.dcm", gzip.compress(ct()), contentEncoding="gzip")
    assert handle(messages[0], services).status is Status.STORED
    assert inflating == []
