"""PDFs through the pipeline, on real storage, warehouse and workers: what a page costs, whom it delays."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from app import pipeline
from app.cli.commands import cli
from app.jobs import ingest
from app.model.errors import Overloaded
from app.model.values import EventType, GiveUp, Status
from app.sources.notifications import notification
from app.workers.pool import Workers
from tests import data, pdfs
from tests.archives import zipped
from tests.parts import need, shared
from tests.processes import wait_until

LINUX = Path("/proc/self/stat").exists()


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with closing(Workers(1, 3 << 29, 60)) as warm:
        yield warm


@pytest.fixture
def services(services, workers):
    return replace(services, workers=workers)


def land(services, name: str, content: bytes):
    (services.source.root / name).write_bytes(content)
    return services.source.find(name)


def handle(services, ref, how: GiveUp = GiveUp.WHEN_DUE):
    told = notification(EventType.FINALIZE, ref, services.source.uri(ref.name), services.now())
    return pipeline.handle(told, services, how)


def rows(services, table: str = "instances_current"):
    return services.warehouse.query(f"SELECT * FROM {table}")


def picture(row) -> np.ndarray:
    png = Path(row["preview_uri"].removeprefix("file://")).read_bytes()
    return np.asarray(Image.open(io.BytesIO(png)))


def spent_s(workers: Workers) -> float:
    """Return the processor time of all workers that have ended."""
    need("processor times of processes", LINUX, "run on Linux")
    stat = Path(f"/proc/{workers.run(os.getppid)}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("make", [pdfs.tiling, pdfs.shading, pdfs.mesh], ids=lambda make: make.__name__)
def test_a_page_that_takes_too_long_costs_five_seconds_and_the_picture_alone(services, make):
    before = spent_s(services.workers)
    outcome = handle(services, land(services, "a.dcm", pdfs.pdf_object(make())))
    assert outcome.status is Status.STORED
    (row,) = rows(services)
    assert (row["modality"], row["preview_uri"], row["preview_error"]) == ("DOC", None, "limit_exceeded")
    assert rows(services, "failures") == []
    assert spent_s(services.workers) - before < 8


@pytest.mark.parametrize(
    "make", [pdfs.forms, pdfs.operators, pdfs.masked_image], ids=lambda make: make.__name__
)
def test_a_page_that_needs_too_much_memory_costs_the_picture_alone(services, make):
    need("a limit on address space", LINUX, "run on Linux")
    handle(services, land(services, "a.dcm", pdfs.pdf_object(make())))
    (row,) = rows(services)
    assert (row["modality"], row["preview_uri"], row["preview_error"]) == ("DOC", None, "limit_exceeded")


@pytest.mark.parametrize(
    "make",
    [pdfs.claimed_image, pdfs.letters, pdfs.many_pages, pdfs.huge_page],
    ids=lambda make: make.__name__,
)
def test_a_page_that_only_looks_expensive_is_drawn(services, make):
    handle(services, land(services, "a.dcm", pdfs.pdf_object(make())))
    (row,) = rows(services)
    assert row["preview_error"] is None
    assert max(picture(row).shape) == services.settings.preview.max_side
    assert picture(row)[-20, 20].tolist() == [0, 0, 0]  # each paints the corner below on the left


def test_a_page_that_was_sent_to_us_costs_the_picture_alone(services):
    content = shared("fieldcases", "pdf_tiling.dcm").read_bytes()
    handle(services, land(services, "a.dcm", content))
    assert [row["preview_error"] for row in rows(services)] == ["limit_exceeded"]


def test_a_document_that_is_broken_has_its_own_code(services):
    handle(services, land(services, "a.dcm", pdfs.pdf_object(b"%PDF-1.7 and nothing more")))
    assert [row["preview_error"] for row in rows(services)] == ["bad_document"]


def test_documents_that_take_too_long_leave_the_other_workers_to_images(services):
    """Eight places for events, as the queue has; three documents of five seconds each, and two workers."""
    ended: list[str] = []

    def take(ref) -> None:
        handle(crowded, ref, GiveUp.NOW)  # it waits for its turn, and for a worker, as long as that takes
        ended.append(ref.name)

    with closing(Workers(2, 3 << 29, 60)) as two, ThreadPoolExecutor(8) as places:
        crowded = replace(services, workers=two)
        for number in range(3):
            places.submit(
                take, land(services, f"{number}.pdf", pdfs.pdf_object(pdfs.tiling(), f"1.8.{number}"))
            )
        assert wait_until(two._confined.locked, 30)
        images = [
            land(services, f"{number}.ct", data.ct(SOPInstanceUID=f"1.9.{number}")) for number in range(9)
        ]
        for one in [places.submit(take, ref) for ref in images]:
            one.result()
        drawn_before = [name for name in ended if name.endswith(".pdf")]
    assert len(drawn_before) <= 1
    assert len(ended) == 12
    assert len(rows(services)) == 12


def test_a_document_that_does_not_come_to_its_turn_is_refused_and_the_next_delivery_draws_it(services):
    ref = land(services, "a.dcm", pdfs.pdf_object(pdfs.many_pages()))
    delivery = replace(services.settings.delivery, deadline_s=2.0)
    hurried = replace(services, settings=services.settings.model_copy(update={"delivery": delivery}))
    with services.workers._confined, pytest.raises(Overloaded):
        handle(hurried, ref)
    assert rows(services) == []
    handle(services, ref)
    assert [row["preview_error"] for row in rows(services)] == [None]


def test_ingest_waits_for_the_turn_of_a_document(services, tmp_path):
    """Nobody would try again."""
    (tmp_path / "a.dcm").write_bytes(pdfs.pdf_object(pdfs.many_pages()))
    lines: list[dict[str, object]] = []
    with ThreadPoolExecutor(1) as pool:
        with services.workers._confined:
            summary = pool.submit(ingest.ingest, [tmp_path / "a.dcm"], services, lines.append)
            assert wait_until(lambda: services.workers.run(os.getpid) > 0, 10)
        assert summary.result() == {"files": 1, "stored": 1}
    assert [(line["status"], line["preview_error"]) for line in lines] == [("stored", None)]


def test_of_an_archive_two_documents_that_take_too_long_are_tried(services):
    before = spent_s(services.workers)
    bombs = [(f"{number}.dcm", pdfs.pdf_object(pdfs.tiling(), f"1.8.{number}")) for number in range(5)]
    outcome = handle(services, land(services, "x.zip", zipped([*bombs, ("ct.dcm", data.ct())])))
    assert (outcome.status, outcome.stored) == (Status.STORED, 6)
    errors = {row["member"]: row["preview_error"] for row in rows(services)}
    assert errors == {"ct.dcm": None, **{f"{number}.dcm": "limit_exceeded" for number in range(5)}}
    assert spent_s(services.workers) - before < 14


def test_render_draws_a_document_within_the_same_limits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, make in (("bomb", pdfs.forms), ("page", pdfs.many_pages)):
        Path(f"{name}.dcm").write_bytes(pdfs.pdf_object(make()))
    for picture_name in ("page.png", "page.gif"):
        assert CliRunner().invoke(cli, ["render", "page.dcm", "-o", picture_name]).exit_code == 0
        assert max(Image.open(picture_name).size) in (1024, 2048)
    need("a limit on address space", LINUX, "run on Linux")
    result = CliRunner().invoke(cli, ["render", "bomb.dcm", "-o", "bomb.png"])
    assert (result.exit_code, result.output) == (1, "Error: limit_exceeded: out of memory\n")
    assert not Path("bomb.png").exists()
