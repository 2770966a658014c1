"""`scan`: rows for files anywhere, in three formats, and what an interruption leaves."""

import csv
import json
import os
import zipfile
from contextlib import closing
from datetime import date, time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydicom.data import get_testdata_file

import dicomlake
from app.cli.commands import cli
from app.config import load
from app.jobs import scan as scanning
from app.jobs.file_content import uri_of
from app.services import open_workers
from tests.parts import need

CT, MR = (Path(get_testdata_file(name, download=False)) for name in ("CT_small.dcm", "MR_small.dcm"))
NAMES = (
    "object_uri member generation size_bytes study_instance_uid series_instance_uid sop_instance_uid"
    " sop_class_uid transfer_syntax_uid patient_id issuer_of_patient_id patient_name patient_sex"
    " accession_number study_id study_description series_description modality body_part_examined"
    " manufacturer manufacturer_model_name station_name institution_name referring_physician_name"
    " protocol_name photometric_interpretation patient_birth_date study_date series_date study_time"
    " series_number instance_number rows columns number_of_frames samples_per_pixel bits_allocated"
    " bits_stored pixel_spacing slice_thickness image_type warnings metadata patient_name_folded"
    " patient_name_groups error"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a CT, an archive of an MR and a text, and a file that is no DICOM; we are beside it."""
    files = tmp_path / "files"
    (files / "b").mkdir(parents=True)
    (files / "a.dcm").write_bytes(CT.read_bytes())
    with zipfile.ZipFile(files / "b/two.zip", "w") as made:
        made.write(MR, "mr.dcm")
        made.writestr("notes.txt", "just a text")
    (files / "c.txt").write_text("just a text")
    monkeypatch.chdir(tmp_path)
    return files


@pytest.fixture(scope="module")
def reading():
    settings = load({}).settings
    with open_workers(settings) as workers:
        yield scanning.Reading(workers, settings.describe_options().without_preview(), settings.archive)


def command(*words):
    result = CliRunner().invoke(cli, ["scan", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(row):
    """Return what identifies a row and what became of it."""
    name = os.path.basename(row["object_uri"])
    return name, row["member"] or None, row["modality"] or None, row["error"] or None


ALL = [
    ("a.dcm", None, "CT", None),
    ("two.zip", "mr.dcm", "MR", None),
    ("two.zip", "notes.txt", None, "not_dicom"),
    ("c.txt", None, None, "not_dicom"),
]


def test_columns_are_those_of_instances_without_the_services_own_and_the_error():
    assert [column.name for column in scanning.COLUMNS] == NAMES.split()


def test_every_data_set_has_a_row_and_so_has_what_is_none(folder, reading):
    rows = list(scanning.scan([folder], reading))
    assert sorted(map(told, rows), key=str) == sorted(ALL, key=str)
    assert all(set(row) == set(NAMES.split()) for row in rows)
    (ct,) = (row for row in rows if row["modality"] == "CT")
    # Literals: dcmdump CT_small.dcm
    assert ct["study_date"] == date(2004, 1, 19)
    assert ct["study_time"] == time(7, 27, 30)
    assert (ct["rows"], ct["pixel_spacing"], ct["size_bytes"]) == (128, [0.661468, 0.661468], 39206)
    assert ct["generation"] == (folder / "a.dcm").stat().st_mtime_ns


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_command_writes_each_format(folder, kind):
    if kind == "parquet":
        need("pyarrow", find_spec("pyarrow") is not None, "make .venv/.test")
    output = folder.parent / f"out.{kind}"
    code, said, _ = command(folder, "-o", output)
    assert code == 0
    assert json.loads(said) == {
        "summary": {"files": 3, "rows": 4, "errors": 2, "codes": {"not_dicom": 2}, "output": str(output)}
    }
    assert sorted(path.name for path in folder.parent.iterdir()) == ["files", f"out.{kind}"]
    if kind == "parquet":
        from pyarrow import parquet

        rows = parquet.read_table(output).to_pylist()
        assert [row["study_date"] for row in rows if row["modality"] == "CT"] == [date(2004, 1, 19)]
        assert [row["pixel_spacing"] for row in rows if row["modality"] == "CT"] == [[0.661468, 0.661468]]
    elif kind == "csv":
        rows = list(csv.DictReader(output.read_text().splitlines()))
        assert list(rows[0]) == NAMES.split()
        assert [row["pixel_spacing"] for row in rows if row["modality"] == "CT"] == ["[0.661468,0.661468]"]
    else:
        rows = lines(output)
    assert sorted(map(told, rows), key=str) == sorted(ALL, key=str)


def test_an_interrupted_scan_goes_on_and_reads_nothing_twice(folder, reading):
    """The journal has a whole object, one that may be incomplete, and half a line."""
    output = folder.parent / "out.jsonl"
    whole = folder.parent / "whole.jsonl"
    scanning.scan_to(whole, [folder], reading)
    journal = scanning._journal(output, [folder.resolve()], reading)
    kept = whole.read_bytes().splitlines(keepends=True)
    marked = kept[0].replace(b'"CT"', b'"XX"', 1)  # shows that this row was not made again
    journal.write_bytes(marked + kept[1] + kept[2][:100])
    summary = scanning.scan_to(output, [folder], reading)
    assert summary["resumed"] == 1
    assert [row["modality"] for row in lines(output)] == [
        "XX" if row["modality"] == "CT" else row["modality"] for row in lines(whole)
    ]
    assert not journal.exists()


def test_a_file_that_changed_meanwhile_is_read_again(folder, reading):
    output, whole = folder.parent / "out.jsonl", folder.parent / "whole.jsonl"
    scanning.scan_to(whole, [folder], reading)
    scanning._journal(output, [folder.resolve()], reading).write_bytes(whole.read_bytes())
    (folder / "a.dcm").write_bytes(MR.read_bytes())
    scanning.scan_to(output, [folder], reading)
    rows = lines(output)
    assert [row["modality"] for row in rows if row["object_uri"] == uri_of(folder / "a.dcm")] == ["MR"]
    assert len(rows) == 4


def test_a_scan_of_other_files_does_not_go_on_with_the_journal(folder, reading):
    output = folder.parent / "out.jsonl"
    old = scanning._journal(output, [folder.resolve()], reading)
    old.write_text("")
    scanning.scan_to(output, [folder / "a.dcm"], reading)
    assert len(lines(output)) == 1
    assert not old.exists()


def test_an_output_in_the_folder_is_not_scanned(folder):
    for _ in range(2):
        assert command(folder, "-o", folder / "out.csv")[0] == 0
        assert len(list(csv.DictReader((folder / "out.csv").read_text().splitlines()))) == 4


def test_an_output_of_another_kind_or_without_a_folder_is_refused_before_anything_is_read(folder):
    code, said, why = command(folder, "-o", "out.txt")
    assert (code, said) == (2, "")
    assert why == "Error: out.txt: the name must end in .parquet, .csv, .jsonl\n"
    code, _, why = command(folder, "-o", "nowhere/out.csv")
    assert (code, why) == (2, f"Error: there is no folder {folder.parent}/nowhere\n")


def test_a_file_that_cannot_be_read_has_its_code(folder, reading):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "a.dcm").chmod(0)
    (row,) = scanning.scan([folder / "a.dcm"], reading)
    assert row["error"] == "storage_unavailable"


def test_a_large_file_is_read_in_ranges(folder, reading):
    """Only the elements before the pixels are needed, however large these are."""
    from tests.data import identity, part10

    dataset = identity()
    dataset.Rows = dataset.Columns = 2048
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = bytes(2 * 2048 * 2048)
    file = folder / "large.dcm"
    file.write_bytes(part10(dataset))
    assert file.stat().st_size > scanning.WHOLE_BYTES
    (row,) = scanning.scan([file], reading)
    assert (row["rows"], row["error"]) == (2048, None)


def test_the_module_for_notebooks(folder):
    row = dicomlake.describe_file(folder / "a.dcm")
    assert (row["modality"], row["patient_name"], row["error"]) == ("CT", "CompressedSamples^CT1", None)
    assert json.loads(row["metadata"])["Modality"] == "CT"
    assert len(list(dicomlake.scan(folder))) == 4
    image = dicomlake.preview_image(folder / "a.dcm")
    assert (image.size, image.format) == ((128, 128), "PNG")
    with pytest.raises(dicomlake.DicomlakeError) as fault:
        dicomlake.describe_file(folder / "c.txt")
    assert fault.value.code == "not_dicom"
    with pytest.raises(FileNotFoundError):
        dicomlake.scan("nowhere")
    with closing(dicomlake.scan(folder)) as rows:  # abandoned: its workers end
        assert len(list(islice(rows, 1))) == 1


def test_the_module_asks_the_lake(folder):
    assert CliRunner().invoke(cli, ["ingest", str(folder / "a.dcm")]).exit_code == 0
    sql = "SELECT modality FROM instances_current WHERE modality = @modality"
    assert dicomlake.query(sql, modality="CT") == [{"modality": "CT"}]
