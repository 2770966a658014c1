"""A real Chromium, driven by Playwright, against the whole service on a scratch lake."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from app.api import server
from app.services import Services
from tests.parts import need

SWITCHES = [
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium, or skip the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    need("Chromium", found is not None, "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def lake(services: Services) -> Iterator[str]:
    """Serve a lake with its watcher and queue; yield its address."""
    with server.listen("127.0.0.1", 0) as sock:
        http = server.make_server(services)
        thread = threading.Thread(target=server.run, args=(http, services, sock))
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            http.should_exit = True
            thread.join(30)


@contextmanager
def page_of(
    browser: Browser, base: str, javascript: bool = True, expected: str = "status of 400"
) -> Iterator[Page]:
    """Open a page; whatever its console or a script complained of fails the test.

    expected: pattern of the errors that are none, by default that a request was refused.
    """
    complaints: list[str] = []
    context = browser.new_context(
        base_url=base, java_script_enabled=javascript, viewport={"width": 1280, "height": 900}
    )
    page = context.new_page()
    page.set_default_timeout(20_000)

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and not re.search(expected, message.text):
            complaints.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield page
        assert complaints == []
    finally:
        context.close()


def wait_for(services: Services, sql: str, number: int, wait: Callable[[], object]) -> None:
    """Wait until a query counts so many rows."""
    for _ in range(600):
        if services.warehouse.query(sql)[0]["n"] == number:
            return
        wait()
    raise AssertionError(f"not {number} rows of {sql}")


def drop(landing: Path, **files: bytes) -> None:
    """Put files into the landing folder."""
    landing.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (landing / f"{name}.dcm").write_bytes(content)
