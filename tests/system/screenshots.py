"""Draw docs/screenshots: Orthanc, our page and metrics of a site without a cloud.

python -m tests.system.screenshots
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.orthanc import USER
from tests.parts import ROOT
from tests.system.browser.chromium import chromium
from tests.system.onprem import Sender, Site, corpus, settle

FOLDER = ROOT / "docs/screenshots"
SIZE = {"width": 1100, "height": 560}
SAMPLES = ("CT_small", "MR_small", "JPEG2000", "examples_overlay", "rtplan", "MR_truncated")


def main() -> None:
    """Send files, then draw each page."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, Site(Path(name)) as site, chromium() as browser:
        files = [path for path in corpus() if path.stem in SAMPLES]
        sender = Sender(site, files, Path(name), endless=False)
        sender.close()
        settle(site)
        pages = {
            "orthanc": f"{site.orthanc.url}/app/explorer.html#find-patients",
            "page": f"{site.service.url}/",
            "metrics": f"{site.service.url}/metrics",
        }
        login = {"username": USER[0], "password": USER[1]}
        for picture, url in pages.items():
            page = browser.new_page(viewport=SIZE, http_credentials=login if picture == "orthanc" else None)
            page.goto(url)
            page.wait_for_load_state("networkidle")
            page.wait_for_function("!document.body.classList.contains('ui-loading')")
            page.screenshot(path=FOLDER / f"{picture}.png")
            page.close()


if __name__ == "__main__":
    main()
