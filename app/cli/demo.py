"""`demo`: the service on the embedded default, fed with pydicom's own sample files and two broken ones."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import click

from app.api import server
from app.cli.text_table import table
from app.config import Settings
from app.model.errors import DicomlakeError
from app.services import Services, open_services
from app.warehouse import queries

SAMPLES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPGExtended.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "examples_ybr_color.dcm",
    "examples_overlay.dcm",
    "image_dfl.dcm",
    "liver_1frame.dcm",
    "rtdose.dcm",
    "rtplan.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
)
PATIENCE_S = 120
Emit = Callable[[object], None]


@contextmanager
def lake(once: bool, keep: Path | None) -> Iterator[dict[str, object]]:
    """Yield the settings of the demo's lake: in `keep`; else, with `once`, a folder that is removed."""
    if keep is None and not once:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="dicomlake-") as scratch:
        folder = Path(keep or scratch).resolve()
        yield {
            "source.url": f"file:{folder / 'landing'}",
            "artifacts.url": f"file:{folder / 'output'}",
            "warehouse.url": f"sqlite:{folder / 'lake.db'}",
            "bus.url": f"local:{folder / 'queue.db'}",
            **({"api.port": 0} if once else {}),
        }


def run(settings: Settings, once: bool, emit: Emit) -> bool:
    """Serve, drop the samples and tell what became of each; return whether each ended as it should.

    Runs until Ctrl-C, or with `once` until the last sample has ended.
    """
    with server.listen(settings.api.host, settings.api.port) as sock, ThreadPoolExecutor(1) as pool:
        services = open_services(settings)
        http = server.make_server(services)
        address = server.local_endpoint(sock)
        if not once:
            click.echo(f"open {address} in a browser; what lands appears there within seconds", err=True)

        def feed() -> bool:
            try:
                good = _feed(services, emit, lambda: http.should_exit)
                _say_addresses(services, address, once)
                return good
            except DicomlakeError:
                if http.should_exit:  # what it asked was closed already
                    raise KeyboardInterrupt from None
                raise

        def stop(fed: Future[bool]) -> None:
            http.should_exit = http.should_exit or once or fed.exception() is not None

        fed = pool.submit(feed)
        fed.add_done_callback(stop)
        try:
            server.run(http, services, sock)
        finally:
            http.should_exit = True
    return fed.result()


def _feed(services: Services, emit: Emit, stopping: Callable[[], bool]) -> bool:
    """Drop the samples and tell what became of each; raises KeyboardInterrupt when it is to stop before."""
    landing = Path(services.source.uri("demo").removeprefix("file://"))
    expected = _drop(landing)
    uris = {services.source.uri(f"demo/{name}"): name for name in expected}
    since = {uri: (landing / name).stat().st_mtime_ns for uri, name in uris.items()}
    lines: dict[str, str] = {}
    deadline = time.monotonic() + PATIENCE_S
    click.echo(f"dropped {len(uris)} files; two are broken and are retried for about 15 s", err=True)
    while len(lines) < len(uris) and time.monotonic() < deadline:
        if stopping():
            raise KeyboardInterrupt
        for line in _ended(services, since):
            if str(line["object_uri"]) not in lines:
                lines[str(line["object_uri"])] = str(line["outcome"])
                emit(line)
        time.sleep(0.1)
    show_rows(services, uris)
    wrong = [name for uri, name in uris.items() if lines.get(uri) != expected[name]]
    for name in wrong:
        click.echo(f"{name}: did not end as {expected[name]}", err=True)
    return not wrong


def _drop(landing: Path) -> dict[str, str]:
    """Copy the samples into the landing folder and return how each should end."""
    files = resources.files("pydicom.data").joinpath("test_files")
    landing.mkdir(parents=True, exist_ok=True)
    for name in SAMPLES:
        with resources.as_file(files.joinpath(name)) as sample:
            shutil.copyfile(sample, landing / name)
    whole = files.joinpath("CT_small.dcm").read_bytes()
    (landing / "broken-text.dcm").write_bytes(b"this is a text file named .dcm\n")
    (landing / "broken-truncated.dcm").write_bytes(whole[: len(whole) // 2])
    broken = dict.fromkeys(("broken-text.dcm", "broken-truncated.dcm"), "dead_lettered")
    return dict.fromkeys(SAMPLES, "stored") | broken


def _ended(services: Services, since: Mapping[str, int]) -> Iterator[dict[str, object]]:
    """Yield a line for each of the dropped versions that has a row or a dead letter."""
    of_rows = "modality", "size_bytes", "preview_uri", "preview_error"
    stored = _of_the_demo(services, "instances_current", "object_uri", "generation", *of_rows)
    letters = _of_the_demo(services, "dead_letters", "object_uri", "generation", "code", "reason")
    for outcome, rows in (("stored", stored), ("dead_lettered", letters)):
        for row in rows:
            if int(str(row.pop("generation") or 0)) >= since.get(str(row["object_uri"]), 1 << 63):
                yield {"outcome": outcome, **row}


def show_rows(services: Services, uris: Container[str]) -> None:
    """Print the rows of the objects in `uris`, and how many others the lake holds."""
    shown = "modality", "sop_instance_uid", "rows", "columns", "number_of_frames AS frames", "preview_error"
    found = _of_the_demo(services, "instances_current", "object_uri", *shown)
    rows = [row for row in found if row.pop("object_uri") in uris]
    rows.sort(key=lambda row: (str(row["modality"] or ""), str(row["sop_instance_uid"])))
    click.echo(f"\n{table(rows)}", err=True)
    (count,) = services.warehouse.query(*queries.count("instances_current"))
    if others := int(str(count["n"])) - len(rows):
        click.echo(f"and {others} row(s) of other objects that are in this lake", err=True)
    click.echo(err=True)


def _of_the_demo(services: Services, view: str, *columns: str) -> list[dict[str, object]]:
    """Return columns of a view about the objects in the demo's folder: a used lake may hold millions."""
    return services.warehouse.query(*queries.rows_below(services.source.uri("demo/"), view, columns))


def _say_addresses(services: Services, address: str, once: bool) -> None:
    if once:
        return
    landing = services.source.uri("").removeprefix("file://")
    click.echo(f"page     {address}  (DICOMweb at {address}dicomweb, docs at {address}docs)", err=True)
    click.echo(f"landing  {landing}  copy DICOM files here; Ctrl-C ends the service", err=True)
