"""The public face: one object in, an instance or a permanent error out, whatever the bytes."""

import json
import multiprocessing
import pickle
from collections import Counter
from pathlib import Path

import pydicom.data
import pytest

from app.dicom import bulk_source, describe
from app.model.errors import BadDataset, PermanentError
from app.model.options import DescribeOptions, MetadataOptions, PreviewOptions
from app.model.values import DatasetWarning, Instance
from tests import data
from tests.parts import shared

PLAIN = DescribeOptions()
NO_PREVIEW = DescribeOptions(preview=PreviewOptions(enabled=False))
CANARY = "CANARY7391"


def run(raw: bytes, options: DescribeOptions = PLAIN) -> Instance:
    return describe(data.content(raw), options)


def test_a_ct_is_described_whole():
    instance = run(data.ct())
    assert instance.preview is not None
    assert instance.preview.startswith(b"\x89PNG")
    assert instance.preview_error is None
    assert instance.columns["patient_id"] == "P-1"
    assert json.loads(instance.metadata)["PatientName"] == "Doe^Jane"
    assert json.loads(instance.document)["00100020"] == {"vr": "LO", "Value": ["P-1"]}
    assert instance.warnings == ()
    assert set(instance.took_ms) == {"parse", "render"}


def test_what_has_nothing_to_draw_is_described_without_a_preview():
    instance = run(data.minimal())
    assert (instance.preview, instance.preview_error) == (None, "no_pixel_data")
    assert instance.columns["sop_class_uid"] == data.CT_CLASS


def test_a_report_is_described_with_a_page_of_its_text():
    instance = run(data.sr())
    assert instance.preview is not None
    assert instance.columns["modality"] == "SR"


def test_a_window_that_shows_nothing_is_warned_of_where_there_is_a_preview():
    # Values -1024 to -770 in a window of 3000 to 3100.
    wrong = data.ct(Modality="DX", WindowCenter="3050", WindowWidth="100")
    assert run(wrong).warnings == (DatasetWarning("00281050", "window_unusable"),)
    assert run(wrong, NO_PREVIEW).warnings == ()
    asked = DescribeOptions(preview=PreviewOptions(window="3050,100"))
    assert run(wrong, asked).warnings == ()


def test_a_window_that_shows_nothing_of_a_grey_slide_is_warned_of():
    tiles = {"NumberOfFrames": "2", "TotalPixelMatrixRows": 32, "TotalPixelMatrixColumns": 8}
    wrong = data.ct(Modality="SM", WindowCenter="3050", PixelData=data.pixels(16, 8, frames=2), **tiles)
    assert run(wrong).warnings == (DatasetWarning("00281050", "window_unusable"),)


def test_a_preview_that_is_not_wanted_is_disabled():
    instance = run(data.ct(), NO_PREVIEW)
    assert (instance.preview, instance.preview_error) == (None, "disabled")


def test_the_document_does_not_depend_on_the_preview():
    assert run(data.ct()).document == run(data.ct(), NO_PREVIEW).document


def test_a_bulk_data_uri_names_the_generation_and_is_percent_encoded():
    content = data.content(data.ct(), uri="gs://landing/a b#1?.dcm", generation=42)
    assert bulk_source(content) == "gs://landing/a%20b%231%3F.dcm?generation=42"
    uri = json.loads(describe(content, NO_PREVIEW).document)["7FE00010"]["BulkDataURI"]
    assert uri.startswith("gs://landing/a%20b%231%3F.dcm?generation=42#offset=")


def test_a_value_that_is_not_valid_fails_only_where_asked_to():
    raw = data.raw(data.element(0x00080018, "UI", b"1.2.3\0"), data.element(0x00080020, "DA", b"notadate"))
    assert [warning.code for warning in run(raw).warnings] == ["invalid_da"]
    with pytest.raises(BadDataset) as caught:
        run(raw, DescribeOptions(metadata=MetadataOptions(strict=True)))
    assert (caught.value.code, caught.value.text) == ("invalid_value", "element 00080020 is not valid")


def test_a_contradiction_of_the_file_meta_information_is_among_the_warnings():
    raw = data.raw(data.element(0x00020003, "UI", b"1.2.4\0"), data.element(0x00080018, "UI", b"1.2.3\0"))
    assert run(raw).warnings == (DatasetWarning("00020003", "meta_mismatch"),)


def test_describe_runs_in_another_process():
    content = pickle.loads(pickle.dumps(data.content(data.ct())))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        instance = pool.apply(describe, (content, NO_PREVIEW))
    assert instance.columns["patient_id"] == "P-1"


def test_a_directory_is_a_row_without_a_preview():
    path = pydicom.data.get_testdata_file("DICOMDIR", read=False)
    instance = run(Path(path).read_bytes())
    assert instance.columns["sop_class_uid"] is None
    assert instance.preview_error == "no_pixel_data"


def broken() -> list[bytes]:
    """Return files full of the canary, each broken in another way."""
    value = CANARY.encode()
    name = data.element(0x00100010, "PN", value)
    texts = [
        (0x00200011, "IS"),
        (0x00180050, "DS"),
        (0x00080020, "DA"),
        (0x00080018, "UI"),
        (0x00280010, "US"),
    ]
    bad = [data.element(tag, vr, value) for tag, vr in texts]
    charset = data.element(0x00080005, "CS", value)
    pixels = data.element(0x7FE00010, "OW", value)
    whole = data.raw(charset, name, *bad, pixels)
    return [
        whole,
        whole[:-3],
        whole[:-30],
        data.raw(name, value * 3),
        data.raw(name, b"\xfe\xff\x00\xe0" + value),
    ]


@pytest.mark.parametrize("raw", broken())
@pytest.mark.parametrize("strict", [False, True])
def test_no_value_reaches_an_error_a_log_or_a_warning(raw, strict, caplog, recwarn, capfd):
    options = DescribeOptions(metadata=MetadataOptions(strict=strict))
    said = ""
    try:
        run(raw, options)
    except PermanentError as exc:
        said = f"{exc} {exc.text} {exc.code} {exc.__cause__}"
    out, err = capfd.readouterr()
    texts = [said, caplog.text, out, err, *(str(warning.message) for warning in recwarn.list)]
    assert not [text for text in texts if CANARY in text]


def real_files() -> list[Path]:
    bundled = [Path(name) for name in pydicom.data.get_testdata_files()]
    return sorted(path for path in bundled if path.is_file())


def outcome(path: Path) -> str:
    """Return how a file ends; anything but an instance or a permanent error fails the test."""
    try:
        instance = run(path.read_bytes())
    except PermanentError as exc:
        return f"refused: {exc.code}"
    json.loads(instance.document, parse_constant=pytest.fail)
    json.loads(instance.metadata, parse_constant=pytest.fail)
    assert (instance.preview is None) == (instance.preview_error is not None)
    return f"no preview: {instance.preview_error}" if instance.preview is None else "described"


def test_every_file_that_comes_with_pydicom_ends_well():
    found = Counter(map(outcome, real_files()))
    print(found)
    assert found["described"] > 80
    assert {key for key in found if key.startswith("refused")} == {"refused: not_dicom", "refused: truncated"}


def test_every_file_of_the_corpus_ends_well():
    found = Counter(map(outcome, sorted(shared("corpus").glob("*.dcm"))))
    print(found)
    assert found["described"] > 150
    assert {key: found[key] for key in found if key.startswith("refused")} == {
        "refused: truncated": 3,
        "refused: not_dicom": 1,
    }
