"""OHIF, as its makers built it, shows what a lake holds, with the settings of docs/examples/ohif.js."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from app.services import open_services
from tests import data
from tests.browse.lake import put
from tests.conftest import lake_settings
from tests.parts import ROOT, need
from tests.system.browser.chromium import chromium, lake

pytestmark = pytest.mark.xdist_group("browser")

OHIF = Path(os.environ.get("DICOMLAKE_OHIF", Path.home() / ".cache/dicomlake/ohif-3.13.2/package/dist"))
ANSWER_MS = 120_000
SECONDARY, US_FRAMES, US, MG = (f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("7", "3.1", "6.1", "1.2"))
COLUMNS = np.arange(64 * 64).reshape(64, 64) % 64

# Of the largest canvas: how many greys or colours it has, and how many of its pixels are coloured.
DRAWN = """() => {
  let most = {levels: 0, coloured: 0};
  for (const canvas of document.querySelectorAll('.cornerstone-canvas')) {
    if (canvas.width < 300 || canvas.height < 200) continue;
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const seen = new Set();
    let coloured = 0;
    for (let i = 0; i < pixels.length; i += 4) {
      seen.add((pixels[i] << 16) + (pixels[i + 1] << 8) + pixels[i + 2]);
      coloured += Math.abs(pixels[i] - pixels[i + 1]) > 64;
    }
    if (seen.size > most.levels) most = {levels: seen.size, coloured};
  }
  return most;
}"""


class Viewer(SimpleHTTPRequestHandler):
    """Serves the built viewer: its settings, its files, and its page for every other path."""

    settings = b""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/app-config.js":
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript")
            self.send_header("Content-Length", str(len(self.settings)))
            self.end_headers()
            self.wfile.write(self.settings)
            return
        if not Path(self.translate_path(self.path)).is_file():
            self.path = "/index.html"
        super().do_GET()


@contextmanager
def viewer() -> Iterator[ThreadingHTTPServer]:
    """Serve OHIF from an address of its own, or skip the test where it is not installed."""
    need("OHIF", (OHIF / "index.html").exists(), "make viewers, or set DICOMLAKE_OHIF to its folder dist")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Viewer, directory=str(OHIF))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def slices(count: int) -> Iterator[bytes]:
    """Yield the slices of a CT, one millimetre from each other."""
    values = (COLUMNS * 16 + 1024 - 500).astype("<i2").tobytes()
    for number in range(1, count + 1):
        yield data.ct(
            **uids("1", number),
            PatientName="Slices^Many",
            InstanceNumber=number,
            ImagePositionPatient=[0, 0, number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            FrameOfReferenceUID="2.25.8.9",
            PixelSpacing=[1, 1],
            SliceThickness=1,
            **image(16, values, RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=40, WindowWidth=400),
        )


def uids(study: str, number: int = 1) -> dict[str, str]:
    """Return the UIDs of an instance."""
    one = f"2.25.8.{study}"
    return {
        "StudyInstanceUID": one,
        "SeriesInstanceUID": f"{one}.1",
        "SOPInstanceUID": f"{one}.1.{number}",
    }


def image(bits: int, values: bytes, **elements: object) -> dict[str, object]:
    """Return the elements of a grey image of 64 x 64."""
    size = {"Rows": 64, "Columns": 64, "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    grey = {"PixelRepresentation": 0, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    return {**size, **grey, "PixelData": values, **elements}


def others() -> Iterator[bytes]:
    """Yield an ultrasound of twelve frames, a mammogram, a colour image, and an object without modality."""
    plain = {"RescaleIntercept": None, "RescaleSlope": None, "WindowCenter": None, "WindowWidth": None}
    grey = (COLUMNS * 4).astype("u1").tobytes()
    frames = b"".join(((COLUMNS * 4 + 8 * n) % 256).astype("u1").tobytes() for n in range(12))
    yield data.ct(
        **uids("2"),
        **{**image(8, frames, NumberOfFrames=12, FrameTime="40"), **plain},
        SOPClassUID=US_FRAMES,
        Modality="US",
        PatientName="Frames^Twelve",
    )
    yield data.ct(
        **uids("3"),
        **{**image(16, (COLUMNS * 64).astype("<u2").tobytes(), BitsStored=12, HighBit=11), **plain},
        SOPClassUID=MG,
        Modality="MG",
        PatientName="Breast^Left",
    )
    red = np.stack([COLUMNS * 4, COLUMNS * 0, COLUMNS * 0], axis=-1).astype("u1").tobytes()
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    yield data.ct(
        **uids("4"),
        **{**image(8, red, **colour), **plain},
        SOPClassUID=US,
        Modality="US",
        PatientName="Red^All",
    )
    yield data.ct(
        **uids("5"),
        **{**image(8, grey), **plain},
        SOPClassUID=SECONDARY,
        Modality=None,
        PatientName="None^No",
    )


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Serve OHIF, and a lake that lets its page ask; yield the address of the lake."""
    with viewer() as server:
        address = f"http://127.0.0.1:{server.server_port}"
        settings = lake_settings(
            tmp_path_factory.mktemp("lake"), api__cors_origins=[address], browse__ohif_url=address
        )
        services = open_services(settings)
        for number, content in enumerate([*slices(300), *others()]):
            put(services, f"{number}.dcm", content)
        with lake(services) as base:
            example = (ROOT / "docs/examples/ohif.js").read_text()
            assert "http://127.0.0.1:8080/dicomweb" in example
            Viewer.settings = example.replace("http://127.0.0.1:8080", base).encode()
            yield base, address


@pytest.fixture
def page(browser, place):
    """Open a page; a request of it that failed fails the test."""
    failed: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(ANSWER_MS)
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    yield page
    context.close()
    assert failed == []


def drawn(page: Page) -> dict[str, int]:
    """Wait until a picture is drawn, and return what DRAWN does."""
    for _ in range(ANSWER_MS // 250):
        found = page.evaluate(DRAWN)
        if found["levels"] > 16:
            return found
        page.wait_for_timeout(250)
    raise AssertionError("nothing is drawn")


def test_ohif_lists_all_studies_also_one_without_modality(place, page):
    _, ohif = place
    page.goto(ohif)
    for name in ("Slices, Many", "Frames, Twelve", "Breast, Left", "Red, All", "None, No"):
        expect(page.get_by_text(name).first).to_be_visible(timeout=ANSWER_MS)
    assert page.get_by_role("cell", name="MG").count() == 1


@pytest.mark.parametrize(
    ("study", "pictures", "coloured"),
    [("1", "1/300", False), ("2", "1/12", False), ("3", "1/1", False), ("4", "1/1", True)],
    ids=["CT", "US of twelve frames", "MG", "colour"],
)
def test_ohif_shows_a_study_that_the_page_leads_to(place, page, study, pictures, coloured):
    base, _ = place
    page.goto(f"{base}/studies/2.25.8.{study}")
    page.get_by_role("link", name="Open in OHIF").click()
    assert (drawn(page)["coloured"] > 10_000) == coloured
    expect(page.get_by_text(pictures).first).to_be_visible(timeout=ANSWER_MS)
    expect(page.locator("img[src^=blob], img[src^=data]").first).to_be_visible(timeout=ANSWER_MS)


def test_ohif_fetches_all_slices_and_scrolls_through_them(place, page):
    base, _ = place
    page.goto(f"{base}/studies/2.25.8.1")
    with page.expect_response("**/instances/2.25.8.1.1.150/frames/1"):  # in the background, after the first
        page.get_by_role("link", name="Open in OHIF").click()
    drawn(page)
    page.locator(".cornerstone-canvas").first.hover()
    page.mouse.wheel(0, 100)
    expect(page.get_by_text("2/300").first).to_be_visible(timeout=ANSWER_MS)
