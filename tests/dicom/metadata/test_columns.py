"""The typed columns: literal values, None with a warning where a value does not fit."""

from datetime import date, time

import pytest

from app.dicom.metadata.columns import columns
from app.dicom.metadata.dicom_json import to_metadata
from app.model.values import DatasetWarning
from tests import data


def read(raw: bytes):
    """Return the columns and every warning, the metadata's and the columns' own."""
    metadata = to_metadata(data.parse(raw))
    row, misfits = columns(metadata)
    return row, metadata.warnings + misfits


def of(tag: int, vr: str, value: bytes):
    return read(data.raw(data.element(tag, vr, value)))


def test_a_ct_fills_its_columns():
    row, warnings = read(data.ct())
    assert warnings == ()
    assert row == {
        "study_instance_uid": "1.2.826.0.1.3680043.10.9.1",
        "series_instance_uid": "1.2.826.0.1.3680043.10.9.1.2",
        "sop_instance_uid": "1.2.826.0.1.3680043.10.9.1.2.3",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_id": "P-1",
        "issuer_of_patient_id": None,
        "patient_name": "Doe^Jane",
        "patient_sex": "F",
        "accession_number": "A-17",
        "study_id": "S-1",
        "study_description": None,
        "series_description": "Thorax",
        "modality": "CT",
        "body_part_examined": "CHEST",
        "manufacturer": "Maker",
        "manufacturer_model_name": None,
        "station_name": None,
        "institution_name": None,
        "referring_physician_name": None,
        "protocol_name": None,
        "photometric_interpretation": "MONOCHROME2",
        "patient_name_folded": "doe^jane",
        "patient_name_groups": None,
        "patient_birth_date": date(1970, 1, 2),
        "study_date": date(2024, 1, 31),
        "series_date": None,
        "study_time": time(13, 45, 1, 500000),
        "series_number": 3,
        "instance_number": 7,
        "rows": 16,
        "columns": 8,
        "number_of_frames": None,
        "samples_per_pixel": 1,
        "bits_allocated": 16,
        "bits_stored": 16,
        "pixel_spacing": [0.5, 0.25],
        "slice_thickness": 2.5,
        "image_type": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Müller^Jürgen", "muller^jurgen"),
        ("STRAẞE^Weiß", "strasse^weiss"),
        ("ÅNGSTRÖM ^ Łukasz ^^^", "angstrom^łukasz"),
        ("Nguyễn^Thị Ánh", "nguyen^thi anh"),
        ("İpek", "ipek"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou=山田^太郎=やまた^たろう"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", "ヤマタ^タロウ=山田^太郎"),
        ("Hong^Gildong=洪^吉洞=홍^길동", "hong^gildong=洪^吉洞=홍^길동"),
        ("=山田^太郎", "=山田^太郎"),
        ("Ｄｏｅ^Ｊａｎｅ", "doe^jane"),
        ("^Jane", "^jane"),
    ],
)
def test_a_name_is_folded_for_searches_in_all_its_groups(name, folded):
    row, _ = read(data.ct(SpecificCharacterSet="ISO_IR 192", PatientName=name))
    assert row["patient_name_folded"] == folded


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("Hong^Gildong==홍^길동", "Hong^Gildong==홍^길동"),
        ("=山田^太郎", "=山田^太郎"),
        ("Doe^Jane", None),
        ("Doe^Jane==", None),
        ("", None),
    ],
)
def test_the_groups_of_a_name_are_kept_where_there_are_several(name, groups):
    row, _ = read(data.ct(SpecificCharacterSet="ISO_IR 192", PatientName=name))
    assert row["patient_name_groups"] == groups


@pytest.mark.parametrize("name", [None, "", "^^", " = "])
def test_no_name_is_folded_to_null(name):
    assert read(data.ct(PatientName=name))[0]["patient_name_folded"] is None


def test_several_names_are_folded_each():
    row, _ = of(0x00100010, "PN", b"Doe^Jane\\Roe^Rich")
    assert row["patient_name_folded"] == "doe^jane\\roe^rich"


def test_the_columns_are_those_of_the_contract_in_any_syntax():
    rows = [{**read(data.ct(syntax))[0], "transfer_syntax_uid": None} for syntax in data.NATIVE]
    assert all(row == rows[0] for row in rows)


def test_geometry_comes_from_the_functional_groups():
    row, _ = read(data.enhanced())
    assert (row["pixel_spacing"], row["slice_thickness"], row["number_of_frames"]) == ([0.75, 0.5], 3.0, 3)


def test_geometry_at_the_root_comes_first():
    row, _ = read(data.enhanced(PixelSpacing=["2", "3"]))
    assert row["pixel_spacing"] == [2.0, 3.0]


def test_missing_uids_are_none():
    row, warnings = read(data.minimal(StudyInstanceUID=None, SeriesInstanceUID=""))
    assert (row["study_instance_uid"], row["series_instance_uid"], warnings) == (None, None, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"13", time(13)),
        (b"1345", time(13, 45)),
        (b"134501.25 ", time(13, 45, 1, 250000)),
        (b"13:45:01", time(13, 45, 1)),
    ],
)
def test_times_of_every_length_are_read(text, expected):
    assert of(0x00080030, "TM", text)[0]["study_time"] == expected


def test_a_date_of_the_old_form_is_read():
    assert of(0x00080020, "DA", b"1997.03.09")[0]["study_date"] == date(1997, 3, 9)


@pytest.mark.parametrize(
    ("column", "tag", "vr", "value"),
    [
        ("study_date", 0x00080020, "DA", b"20240231"),
        ("study_date", 0x00080020, "DA", b"00000000"),
        ("study_date", 0x00080020, "DA", b"+1230101"),
        ("study_date", 0x00080020, "DA", b" 1230101"),
        ("study_date", 0x00080020, "DA", b"1_230101"),
        ("study_date", 0x00080020, "DA", b"2024.0131 "),
        ("slice_thickness", 0x00180050, "DS", b"1_0 "),
        ("study_time", 0x00080030, "TM", b"noon"),
        ("study_time", 0x00080030, "TM", b"235960"),
        ("series_number", 0x00200011, "IS", b"1.5 "),
        ("series_number", 0x00200011, "LO", b"3 "),
        ("rows", 0x00280010, "UV", b"\xff" * 8),
        ("slice_thickness", 0x00180050, "DS", b"thin"),
        ("slice_thickness", 0x00180050, "FD", b"\0\0\0\0\0\0\xf8\x7f"),
        ("patient_birth_date", 0x00100030, "SQ", b""),
    ],
)
def test_a_value_that_does_not_fit_is_none_and_warned_of(column, tag, vr, value):
    row, warnings = of(tag, vr, value)
    assert row[column] is None
    assert {warning.tag for warning in warnings} == ({f"{tag:08X}"} if value else set())


@pytest.mark.parametrize("value", [b"0.5 ", b"0.5\\", b"0.5\\x ", b"1\\2\\3 "])
def test_a_pixel_spacing_that_is_no_pair_is_empty_and_warned_of(value):
    row, warnings = of(0x00280030, "DS", value)
    assert row["pixel_spacing"] == []
    assert {warning.tag for warning in warnings} == {"00280030"}


def test_a_name_without_alphabetic_form_shows_what_it_has():
    charset = data.element(0x00080005, "CS", b"ISO_IR 192")
    row, _ = read(data.raw(charset, data.element(0x00100010, "PN", "=山田^太郎".encode())))
    assert row["patient_name"] == "山田^太郎"


@pytest.mark.parametrize(
    ("column", "tag", "vr", "value", "first"),
    [
        ("rows", 0x00280010, "US", b"\x40\0\x41\0", 64),
        ("number_of_frames", 0x00280008, "IS", b"2\\3 ", 2),
        ("study_date", 0x00080020, "DA", b"20240131\\20240201 ", date(2024, 1, 31)),
    ],
)
def test_of_several_values_the_first_counts_and_the_others_are_warned_of(column, tag, vr, value, first):
    row, warnings = of(tag, vr, value)
    assert row[column] == first
    assert warnings == (DatasetWarning(f"{tag:08X}", "not_for_column"),)


def test_several_values_of_a_text_are_written_with_backslashes():
    assert of(0x00080080, "LO", b"North\\South")[0]["institution_name"] == "North\\South"


@pytest.mark.parametrize(
    ("column", "tag", "vr", "value"),
    [
        ("study_date", 0x00080020, "DA", "２０２４０１３１"),
        ("study_time", 0x00080030, "TM", "１３４５"),
        ("slice_thickness", 0x00180050, "LO", "１.５"),
    ],
)
def test_digits_of_other_scripts_are_no_number(column, tag, vr, value):
    charset = data.element(0x00080005, "CS", b"ISO_IR 192")
    row, warnings = read(data.raw(charset, data.element(tag, vr, value.encode())))
    assert row[column] is None
    assert {warning.tag for warning in warnings} == {f"{tag:08X}"}


def test_a_text_that_was_written_as_the_number_zero_is_zero():
    assert of(0x00200010, "IS", b"0 ")[0]["study_id"] == "0"
    assert of(0x00080008, "US", b"\0\0")[0]["image_type"] == ["0"]


def test_a_transfer_syntax_that_is_a_sequence_is_none():
    item = data.element(0x00080020, "DA", b"20240131")
    sequence = b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item
    row, _ = read(bytes(128) + b"DICM" + data.element(0x00020010, "SQ", sequence) + item)
    assert row["transfer_syntax_uid"] is None


def test_warnings_of_the_columns_have_their_own_code():
    assert of(0x00200011, "FD", bytes(6) + b"\xf8\x3f")[1] == (DatasetWarning("00200011", "vr_mismatch"),)
    assert of(0x00080030, "TM", b"235960")[1] == (DatasetWarning("00080030", "not_for_column"),)


@pytest.mark.parametrize(
    ("column", "tag", "vr", "value", "expected"),
    [
        ("patient_id", 0x00100020, "LO", b"  P 1 ", "P 1"),
        ("institution_name", 0x00080080, "LO", b" North\\ South", "North\\South"),
        ("accession_number", 0x00080050, "SH", b" A-17 ", "A-17"),
        ("station_name", 0x00081010, "AE", b" CT1", "CT1"),
        ("modality", 0x00080060, "CS", b" CT ", "CT"),
        ("modality", 0x00080060, "CS", b"  C\xe9", "Cé"),
        ("image_type", 0x00080008, "LO", b" A\\ B", ["A", "B"]),
        ("patient_name", 0x00100010, "PN", b" Doe^Jane= x", "Doe^Jane"),
        ("patient_name", 0x00100010, "PN", b"=  Doe", "Doe"),
        ("study_description", 0x00081030, "LT", b"  two in ", "  two in"),
        ("study_description", 0x00081030, "UT", b"  two in ", "  two in"),
    ],
)
def test_spaces_around_a_value_are_not_in_its_column_where_they_mean_nothing(
    column, tag, vr, value, expected
):
    """PS3.5 Table 6.2-1: they are significant at the beginning of ST, LT and UT."""
    assert of(tag, vr, value)[0][column] == expected


def test_spaces_before_a_value_stay_in_the_document():
    metadata = to_metadata(data.parse(data.raw(data.element(0x00100020, "LO", b" P-1"))))
    assert metadata.dataset["00100020"]["Value"] == [" P-1"]
