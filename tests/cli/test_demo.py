"""What the demo shows, in a lake that holds more than its samples."""

from pathlib import Path

from pydicom.data import get_testdata_file

from app.cli import demo
from app.jobs import ingest

MR_UID = "1.3.6.1.4.1.5962.1.1.4.1.1.20040826185059.5457"


def put(services, *names):
    landing = Path(services.source.uri("").removeprefix("file://"))
    for name in names:
        file = landing / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(Path(get_testdata_file(file.name)).read_bytes())
    ingest.ingest([landing], services, lambda line: None)


def test_in_a_used_lake_only_the_rows_of_its_own_samples_are_shown(services, capsys):
    put(services, "CT_small.dcm", "demo/CT_small.dcm", "demo/MR_small.dcm", "demo2/MR_small.dcm")
    capsys.readouterr()  # the progress of ingest
    demo.show_rows(services, {services.source.uri("demo/MR_small.dcm")})
    head, _, *rows = capsys.readouterr().err.strip().splitlines()
    assert head.split() == ["modality", "sop_instance_uid", "rows", "columns", "frames", "preview_error"]
    assert [row.split() for row in rows] == [
        ["MR", MR_UID, "64", "64"],
        ["and", "3", "row(s)", "of", "other", "objects", "that", "are", "in", "this", "lake"],
    ]


def test_in_a_new_lake_no_others_are_told_of(services, capsys):
    put(services, "demo/MR_small.dcm")
    capsys.readouterr()  # the progress of ingest
    demo.show_rows(services, {services.source.uri("demo/MR_small.dcm")})
    assert "other" not in capsys.readouterr().err
