"""Faults look on the wire as they do in the field."""

import httpx
import pytest

from tests.fake_gcs import FakeGcs

DATA = b"123456789" * 1000


def get(gcs: FakeGcs) -> httpx.Response:
    return httpx.get(f"{gcs.url}/storage/v1/b/landing/o/a?alt=media")


@pytest.fixture
def fake(gcs: FakeGcs) -> FakeGcs:
    gcs.put("landing", "a", DATA)
    return gcs


@pytest.mark.parametrize("status", [429, 500, 503])
def test_status_comes_as_often_as_asked_for(fake: FakeGcs, status: int) -> None:
    fake.fail(status, times=2)
    assert [get(fake).status_code for _ in range(3)] == [status, status, 200]


def test_fault_waits_for_its_request(fake: FakeGcs) -> None:
    fake.fail(503, method="DELETE", target="/o/a")
    assert get(fake).status_code == 200
    assert httpx.delete(f"{fake.url}/storage/v1/b/landing/o/b").status_code == 404
    assert httpx.delete(f"{fake.url}/storage/v1/b/landing/o/a").status_code == 503


def test_reset_breaks_the_connection_before_anything_is_done(fake: FakeGcs) -> None:
    fake.fail("reset")
    with pytest.raises(httpx.TransportError):
        httpx.delete(f"{fake.url}/storage/v1/b/landing/o/a")
    assert "a" in fake.buckets["landing"].live


def test_lost_answer_comes_after_the_work(fake: FakeGcs) -> None:
    fake.fail("lost")
    with pytest.raises(httpx.TransportError):
        httpx.delete(f"{fake.url}/storage/v1/b/landing/o/a")
    assert fake.buckets["landing"].live == {}


def test_short_body_ends_before_its_length(fake: FakeGcs) -> None:
    fake.fail("short")
    with pytest.raises(httpx.RemoteProtocolError):
        get(fake)


def test_truncated_body_has_the_length_it_says(fake: FakeGcs) -> None:
    fake.fail("truncated")
    found = get(fake)
    assert found.content == DATA[:4500]
    assert found.headers["x-goog-stored-content-length"] == "9000"


def test_corrupt_body_and_wrong_hash_do_not_fit_together(fake: FakeGcs) -> None:
    fake.fail("corrupt")
    fake.fail("wrong_hash")
    corrupt, wrong_hash, right = (get(fake) for _ in range(3))
    assert sum(ours != theirs for ours, theirs in zip(corrupt.content, DATA, strict=True)) == 1
    assert corrupt.headers["x-goog-hash"] == right.headers["x-goog-hash"]
    assert wrong_hash.content == DATA
    assert wrong_hash.headers["x-goog-hash"] != right.headers["x-goog-hash"]


def test_slow_body_takes_its_time(fake: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tests.fake_gcs.server.time.sleep", pauses.append)
    fake.fail("slow", seconds=0.02)
    assert get(fake).content == DATA
    assert pauses == [0.02] * 8


def test_unknown_fault_is_a_mistake_of_the_test(gcs: FakeGcs) -> None:
    with pytest.raises(ValueError, match="no such fault"):
        gcs.fail("explode")
