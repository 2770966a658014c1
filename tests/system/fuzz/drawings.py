"""Files that are drawn in every way the service knows, but for codecs: native pixels, paper, slides."""

from __future__ import annotations

from functools import cache

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.read.dataset import read_dataset
from app.dicom.render.preview import preview
from app.model.options import PreviewOptions
from tests import data
from tests.dicom.pages.test_waveform import channel, ecg
from tests.dicom.pictures import picture, with_items
from tests.dicom.render.test_slide import places, tiled
from tests.system.fuzz.codestreams import PNG

SIDE = 8
GREY, COLOUR = bytes(range(SIDE * SIDE)), bytes(range(3 * SIDE * SIDE))
PLANE: tuple[tuple[int, str, object], ...] = (
    *((0x60000010, "US", SIDE), (0x60000011, "US", SIDE), (0x60000040, "CS", "G")),
    *(
        (0x60000050, "SS", [1, 1]),
        (0x60000100, "US", 1),
        (0x60000102, "US", 0),
        (0x60003000, "OB", b"\xaa" * 8),
    ),
)


def draw_file(file: bytes) -> str:
    """Draw a file; every other one with all that can be asked for."""
    options = PreviewOptions(max_side=64, overlays=len(file) % 4 > 1, icc=len(file) % 4 > 1)
    assert preview(read_dataset(data.content(file)), options).startswith(PNG)
    return "drawn"


@cache
def drawings() -> tuple[bytes, ...]:
    """Return a file for every way of drawing."""
    grey = {"WindowCenter": 30, "WindowWidth": 40, "RescaleSlope": 2, "RescaleIntercept": -10}
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL", "PlanarConfiguration": 1}
    with_plane = picture(GREY, SIDE, SIDE, **grey)
    for element in PLANE:
        with_plane.add_new(*element)
    table = {"LUTDescriptor": [64, 0, 16], "LUTData": [9 * n for n in range(64)], "ModalityLUTType": "HU"}
    paper = ecg(np.arange(40).reshape(20, 2), channel("a"), channel("b", "mm[Hg]"))
    return (
        *(data.ct(), data.enhanced(), data.sr()),
        *map(_file, (tiled(10, 20, 30, 40), tiled(10, 20, **places((2, 3), (1, 1))))),
        *map(
            _file, (picture(COLOUR, SIDE, SIDE, **rgb), picture(GREY, SIDE, SIDE, **_palette()), with_plane)
        ),
        _file(picture(GREY, SIDE, SIDE, **_tables("VOILUTSequence", table))),
        _file(picture(GREY, SIDE, SIDE, **_tables("ModalityLUTSequence", table))),
        data.part10(data.identity(Modality="ECG", WaveformSequence=paper.WaveformSequence)),
    )


def _file(dataset: Dataset) -> bytes:
    for element in data.identity():
        dataset.setdefault(element.tag, element)
    return data.part10(dataset)


def _palette() -> dict[str, object]:
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    tables = {f"{name}Descriptor": [256, 0, 16] for name in names}
    values = {f"{name}Data": bytes(range(256)) * 2 for name in names}
    return {"PhotometricInterpretation": "PALETTE COLOR", **tables, **values}


def _tables(sequence: str, table: dict[str, object]) -> dict[str, object]:
    items = with_items(sequence, table)
    item = items[sequence][0]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return items
