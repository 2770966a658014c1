"""NUL in the text of a data set: a row has none, whatever warehouse it goes to, and the document keeps it."""

import json
import sqlite3

import pytest

from app.dicom import describe
from app.model.options import DescribeOptions, MetadataOptions, PreviewOptions
from app.warehouse import open_warehouse
from app.warehouse.tables import check_row
from tests import data
from tests.warehouse.bigquery.test_proto_rows import decoded
from tests.warehouse.contract import instance_row

NO_PREVIEW = DescribeOptions(preview=PreviewOptions(enabled=False))


def item(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body


RAW = data.raw(
    data.element(0x00080018, "UI", b"1.2.3\0"),
    data.element(0x00080060, "CS", b"CT"),
    data.element(0x00090010, "LO", b"MAK\0ER"),
    data.element(0x00091001, "LO", b"private\0"),
    data.element(0x00091002, "SQ", item(data.element(0x00080104, "LO", b"a\0\0b"))),
    data.element(0x00100010, "PN", b"Doe\0^Jane=\0x"),
    data.element(0x00100020, "LO", b"1\x002 "),
    data.element(0x00104000, "LT", b"C:\\u0000"),
)


def test_a_row_has_no_nul_and_the_document_keeps_it():
    instance = describe(data.content(RAW), NO_PREVIEW)
    assert instance.columns["patient_id"] == "1\ufffd2"
    assert instance.columns["patient_name"] == "Doe\ufffd^Jane"
    row = json.loads(instance.metadata)
    assert row["PatientID"] == "1\ufffd2"
    assert row["0009,MAK\ufffdER,01"] == "private"
    assert row["0009,MAK\ufffdER,02"] == [{"CodeMeaning": "a\ufffd\ufffdb"}]
    assert row["PatientComments"] == "C:\\u0000"
    assert json.loads(instance.document)["00100020"]["Value"] == ["1\x002"]
    warned = {one.tag for one in instance.warnings if one.code == "nul_in_text"}
    assert warned == {"00090010", "00080104", "00100010", "00100020"}


def test_padding_is_no_nul_in_text():
    raw = data.raw(
        data.element(0x00080018, "UI", b"1.2.3\0"),
        data.element(0x00100010, "PN", b"Doe\0\0=\0"),
        data.element(0x00100020, "LO", b"A\0\\B\0"),
    )
    instance = describe(data.content(raw), NO_PREVIEW)
    assert instance.columns["patient_id"] == "A\\B"
    assert "nul_in_text" not in {one.code for one in instance.warnings}


@pytest.mark.parametrize("keys", ["keyword", "tag"])
def test_a_row_keyed_by_tags_has_no_nul_either(keys):
    options = DescribeOptions(MetadataOptions(keys=keys), PreviewOptions(enabled=False))
    assert "\\u0000" not in describe(data.content(RAW), options).metadata.replace("C:\\\\u0000", "")


def test_every_reader_of_sqlite_gets_the_whole_value(tmp_path):
    instance = describe(data.content(RAW), NO_PREVIEW)
    row = {**instance_row("r1"), **instance.columns, "metadata": instance.metadata}
    warehouse = open_warehouse(f"sqlite:{tmp_path}/lake.db")
    warehouse.create()
    warehouse.append("instances", [row])
    (found,) = warehouse.query(
        "SELECT length(patient_id) AS n, patient_id || '!' AS text,"
        " json_extract(metadata, '$.PatientID') AS inner FROM instances"
    )
    assert found == {"n": 3, "text": "1\ufffd2!", "inner": "1\ufffd2"}
    warehouse.close()
    with sqlite3.connect(tmp_path / "lake.db") as database:
        assert database.execute(
            "SELECT count(*) FROM instances WHERE instr(metadata, char(0))"
        ).fetchone() == (0,)


def test_bigquery_takes_the_row():
    instance = describe(data.content(RAW), NO_PREVIEW)
    row = {**instance_row("r1"), **instance.columns, "metadata": instance.metadata}
    assert check_row("instances", row) is None
    assert decoded("instances", row).patient_id == "1\ufffd2"
