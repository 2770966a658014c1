"""Objects that a worker cannot hold, in a lake that de-identifies."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from app.browse.objects import copied
from app.model.errors import ShortRead
from app.model.values import Status
from app.services import open_services
from tests.conftest import lake_settings
from tests.data import ct_dataset, element, part10
from tests.parts import need
from tests.pipeline.test_pipeline import Around, handle, rows

MIB = 1 << 20
FRAMES, FRAME = 150, 2 * 1024 * 1024


@pytest.fixture
def clean_services(tmp_path):
    need("a limit on address space", sys.platform == "linux", "run on Linux")
    given = {"deidentify__profile": "basic", "deidentify__key": "k" * 32, "workers__memory_bytes": 256 * MIB}
    opened = open_services(lake_settings(tmp_path, **given))
    yield opened
    opened.close()


def land(services, behind=b""):
    """Write an object of 300 MB, whose pixel data is a hole, and return its version."""
    path = services.source.root / "trial" / "big.dcm"
    path.parent.mkdir()
    dataset = ct_dataset(PixelData=None, NumberOfFrames=str(FRAMES), Rows=1024, Columns=1024)
    with path.open("wb") as file:
        file.write(part10(dataset) + element(0x7FE00010, "OW", length=FRAMES * FRAME))
        file.truncate(file.tell() + FRAMES * FRAME)
        file.seek(0, 2)
        file.write(behind)
    name = "trial/big.dcm"
    services.source.remember(name, services.source.current(name))
    return services.source.find(name)


def test_an_object_over_the_memory_of_a_worker_is_stored_with_its_copy(clean_services):
    services = clean_services
    ref = land(services, element(0x7FE10010, "LO", b"Doe^Jane"))
    assert handle(services, ref).status is Status.STORED
    (row,) = rows(services)
    copy = Path(row["dicom_uri"].removeprefix("file://"))
    assert row["size_bytes"] == copy.stat().st_size > FRAMES * FRAME
    assert row["preview_uri"]
    made = dcmread(copy, defer_size=MIB)
    assert made.PatientID == row["patient_id"] != "P-1"
    content = copied(row["dicom_uri"], row["generation"], services)
    assert (content.data, content.size) == (None, row["size_bytes"])  # read in ranges


def test_an_object_that_changes_while_it_is_copied_leaves_nothing(clean_services):
    services = clean_services
    ref = land(services)
    path = services.source.root / ref.name
    opened = 0

    def fetch(*arguments):
        def opener():
            nonlocal opened
            opened += 1
            if opened == 3:  # the others: is it an archive, and the reads of the worker
                with path.open("r+b") as file:
                    file.seek(-1, 2)
                    file.write(b"x")
            return path.open("rb")

        return replace(services.source.fetch(*arguments), opener=opener)

    with pytest.raises(ShortRead, match="changed while it was copied"):
        handle(replace(services, source=Around(services.source, fetch=fetch)), ref)
    assert opened == 3
    assert (rows(services), list(services.artifacts.list())) == ([], [])
