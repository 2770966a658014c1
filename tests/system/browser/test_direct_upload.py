"""A file over 30 MB as a person uploads it: straight from a real browser into the bucket."""

import time

import pytest

from app.model.values import Message
from app.services import open_services
from tests import data
from tests.conftest import lake_settings
from tests.fake_gcs import FakeGcs
from tests.system.browser.chromium import chromium, lake, page_of, wait_for

pytestmark = pytest.mark.xdist_group("browser")

UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def gcs(monkeypatch):
    with FakeGcs() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        fake.make_bucket("landing")
        yield fake


@pytest.fixture
def place(gcs, tmp_path):
    """Serve a lake over a bucket, whose notifications come by the embedded queue."""
    settings = lake_settings(tmp_path, source__url="gs://landing", delivery__max_attempts=1)
    services = open_services(settings)
    gcs.subscribe(lambda attributes, content: services.bus.publish(Message(content, attributes, "")))
    with lake(services) as base:
        yield services, base


def chosen(page, name: str, content: bytes, folder) -> None:
    (folder / name).write_bytes(content)
    page.goto("/upload")
    page.locator("[name=files]").set_input_files(folder / name)
    page.locator("[name=study]").fill("trial")
    page.get_by_role("button", name="Upload").click()


def puts(gcs) -> list[tuple[str, int]]:
    return [
        (one.headers["content-range"], len(one.body))
        for one in gcs.requests
        if one.method == "PUT" and "upload_id" in one.query
    ]


def test_a_large_file_goes_straight_to_the_bucket_and_on_after_a_break(place, gcs, browser, tmp_path):
    services, base = place
    content = data.ct(**UIDS, Rows=4096, Columns=4096)  # 33,555,236 bytes
    gcs.fail("cut", times=2, method="PUT")  # twice, for Chromium sends a request again by itself
    with page_of(browser, base, expected="ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET") as page:
        chosen(page, "big.dcm", content, tmp_path)
        page.locator(".progress tr", has_text="big.dcm").get_by_text("stored").wait_for(timeout=60_000)
        assert page.get_by_role("link", name="look").get_attribute("href").endswith("/1.2.3.4.5")
    assert gcs.buckets["landing"].live["trial/big.dcm"].data == content
    size = len(content)
    *before, asked, last = puts(gcs)
    assert set(before) == {(f"bytes 0-{size - 1}/{size}", size)}
    assert asked == (f"bytes */{size}", 0)
    assert last[1] < size
    assert last[0] == f"bytes {size - last[1]}-{size - 1}/{size}"
    assert services.warehouse.query("SELECT object_uri, collection FROM instances_current") == [
        {"object_uri": "gs://landing/trial/big.dcm", "collection": "trial"}
    ]


def test_what_is_broken_further_on_lands_and_its_dead_letter_is_shown(place, gcs, browser, tmp_path):
    services, base = place
    content = data.ct(**UIDS, Rows=4096, Columns=4096)[:-20]
    with page_of(browser, base) as page:
        chosen(page, "cut.dcm", content, tmp_path)
        page.locator(".progress tr", has_text="cut.dcm").get_by_text("dead-lettered").wait_for(timeout=60_000)
    wait_for(services, "SELECT COUNT(*) AS n FROM dead_letters", 1, lambda: time.sleep(0.05))


def test_what_is_no_dicom_is_told_before_it_is_sent(place, gcs, browser, tmp_path):
    _, base = place
    with page_of(browser, base) as page:
        chosen(page, "film.dcm", bytes(31_000_000), tmp_path)
        page.locator(".progress tr", has_text="film.dcm").get_by_text("not a DICOM file").wait_for()
    assert puts(gcs) == []
    assert gcs.buckets["landing"].live == {}
