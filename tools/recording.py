"""Record docs/page.gif: the page in Chromium, from the list of studies to a picture, its tags and an upload.

Run `python -m tools.recording` after a change that alters the page; look at the result before you commit it.
It needs Chromium and the packages of the extra `test`.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page, sync_playwright

from app.cli.demo import SAMPLES

RECORDING = Path(__file__).parents[1] / "docs/page.gif"
SIZE = (960, 640)
COLORS = 64
LOOK_MS, STEP_MS = 1800, 120
MAX_BYTES = 2_000_000
UPLOADED = "MR_small_padded.dcm"
SWITCHES = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
POINTER = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))


def sample(name: str) -> bytes:
    """Return one of pydicom's sample files."""
    return resources.files("pydicom.data").joinpath("test_files", name).read_bytes()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a lake of pydicom's sample files; yield its address."""
    landing = folder / "landing/demo"
    landing.mkdir(parents=True)
    for name in SAMPLES:
        (landing / name).write_bytes(sample(name))
    places = {
        "SOURCE__URL": f"file:{folder / 'landing'}",
        "ARTIFACTS__URL": f"file:{folder / 'output'}",
        "WAREHOUSE__URL": f"sqlite:{folder / 'lake.db'}",
        "BUS__URL": f"local:{folder / 'lake.db'}",
    }
    environment = os.environ | {f"DICOMLAKE__{name}": value for name, value in places.items()}
    dicomlake = [sys.executable, "-m", "app"]
    subprocess.run([*dicomlake, "ingest", str(landing)], env=environment, check=True, capture_output=True)
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([*dicomlake, "serve", "--port", "0"], env=environment, stderr=stream)
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            time.sleep(0.1)
        yield found[0]
    finally:
        process.terminate()
        process.wait()


class Film:
    """Pictures of a page with the pointer drawn in, each with how long it is shown."""

    def __init__(self, page: Page) -> None:
        self._page, self._pictures, self._lasts = page, list[Image.Image](), list[int]()
        self._x, self._y = SIZE[0] // 2, SIZE[1] // 2

    def show(self, lasts_ms: int) -> None:
        """Take a picture that is shown for so long."""
        image = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
        outline = [(self._x + x, self._y + y) for x, y in POINTER]
        ImageDraw.Draw(image).polygon(outline, fill=(255, 255, 255), outline=(0, 0, 0))
        self._pictures.append(image)
        self._lasts.append(lasts_ms)

    def move(self, x: float, y: float, steps: int = 6) -> None:
        """Move the pointer to a place, seen on its way."""
        from_x, from_y = self._x, self._y
        for step in range(1, steps + 1):
            self._x = round(from_x + (x - from_x) * step / steps)
            self._y = round(from_y + (y - from_y) * step / steps)
            self._page.mouse.move(self._x, self._y)
            self.show(STEP_MS)

    def go(self, target: Locator) -> None:
        """Move the pointer to the middle of an element."""
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        assert box is not None
        self.move(box["x"] + min(box["width"] / 2, 60), box["y"] + box["height"] / 2, 4)

    def click(self, target: Locator) -> None:
        """Move the pointer to an element and click it."""
        self.go(target)
        target.click()
        self._page.wait_for_load_state("networkidle")
        self.show(LOOK_MS)

    def write(self, path: Path) -> None:
        """Write the film as a GIF whose pictures share one palette."""
        width, height = SIZE
        every = Image.new("RGB", (width, height * len(self._pictures[::4])))
        for number, picture in enumerate(self._pictures[::4]):
            every.paste(picture, (0, number * height))
        palette = every.quantize(COLORS, dither=Image.Dither.NONE)
        first, *others = (
            picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in self._pictures
        )
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=self._lasts,
            loop=0,
            optimize=False,
            disposal=1,
        )


def act(page: Page, film: Film) -> None:
    """Play what the recording shows."""
    page.goto("/")
    page.wait_for_load_state("networkidle")
    film.show(LOOK_MS)
    film.click(page.get_by_role("link", name="CompressedSamples, CT1"))
    film.click(page.locator(".card").first)
    film.click(page.locator(".card").first)
    page.locator(".viewer[data-drawn]").wait_for()
    box = page.locator(".stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    film.move(x, y)
    page.mouse.down()
    for right, down in ((-110, 0), (-150, -60), (-60, 40), (0, 0)):
        film.move(x + right, y + down, 5)
    page.mouse.up()
    film.show(LOOK_MS)
    find = page.get_by_label("Find")
    film.go(find)
    find.click()
    for letter in "window":
        page.keyboard.type(letter)
        film.show(STEP_MS)
    page.locator(".tags").evaluate("table => table.scrollIntoView({block: 'center'})")
    film.show(LOOK_MS)
    page.evaluate("() => scrollTo(0, 0)")
    film.click(page.get_by_role("link", name="Upload"))
    page.locator("[name=files]").set_input_files(
        {"name": UPLOADED, "mimeType": "application/dicom", "buffer": sample(UPLOADED)}
    )
    film.show(LOOK_MS // 2)
    film.click(page.get_by_role("button", name="Upload"))
    page.locator(".progress tr", has_text=UPLOADED).get_by_text("stored").wait_for()
    film.show(LOOK_MS)
    film.click(page.get_by_role("link", name="look"))
    page.locator(".viewer[data-drawn]").wait_for()
    film.show(2 * LOOK_MS)


def main() -> None:
    """Record the page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder)) as base,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=list(SWITCHES))
        page = browser.new_page(base_url=base, viewport={"width": SIZE[0], "height": SIZE[1]})
        film = Film(page)
        act(page, film)
        film.write(RECORDING)
        browser.close()
    size = RECORDING.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{RECORDING.name} has {size} bytes, over {MAX_BYTES}")


if __name__ == "__main__":
    main()
