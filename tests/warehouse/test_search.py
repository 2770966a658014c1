"""A search in every warehouse: the contract, and what is one warehouse's own."""

import re
import sqlite3
from contextlib import closing
from types import MappingProxyType

import pytest

from app.dicom.metadata import columns
from app.model.errors import BadSearch
from app.warehouse import open_warehouse
from app.warehouse.dialects import DIALECTS
from app.warehouse.matching import COLUMN_OF
from app.warehouse.search import Search, statement
from app.warehouse.sqlite.values import to_parameters
from app.warehouse.tables import check_statement
from tests.warehouse.search_contract import BAD, VALUES, SearchContract, keys


class TestSqlite(SearchContract):
    """The contract on a file."""

    @pytest.fixture
    def warehouse(self, tmp_path):
        warehouse = open_warehouse(f"sqlite:{tmp_path}/lake.db")
        warehouse.create()
        yield warehouse
        warehouse.close()


@pytest.mark.xdist_group("cloud")
class TestBigQuery(SearchContract):
    """The contract on the emulator, which takes a second for each value: so it gets fewer."""

    values = MappingProxyType({name: dict(list(values.items())[1::6]) for name, values in VALUES.items()})

    @pytest.fixture
    def warehouse(self, bigquery):
        return bigquery


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_a_value_that_its_attribute_cannot_have_is_refused_without_being_quoted(dialect, name, value):
    with pytest.raises(BadSearch) as caught:
        statement(Search(matches=keys(**{name: value})), dialect)
    assert caught.value.text.startswith(f"{name.replace('__', '.')}: ")
    assert len(value) < 5 or value not in caught.value.text


def test_every_column_of_the_data_set_is_searched_by_its_tag():
    known = columns.TEXTS | columns.DATES | columns.TIMES | columns.INTEGERS
    known |= {"pixel_spacing": columns.PIXEL_SPACING, "slice_thickness": columns.SLICE_THICKNESS}
    known |= {"image_type": columns.IMAGE_TYPE, "transfer_syntax_uid": columns.TRANSFER_SYNTAX}
    assert {column.name: tag for tag, column in COLUMN_OF.items()} == known


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_a_list_never_reads_documents(dialect, level):
    matches = keys(PatientName="a*", StudyDate="20200101-", ModalitiesInStudy="CT", AccessionNumber="1")
    text, _ = statement(Search(level, matches=matches, collection="acme", limit=50), dialect)
    assert not re.search(r"\bmetadata\b", text)


def test_a_list_of_all_studies_reads_the_table_that_postgresql_keeps():
    plain, _ = statement(Search(limit=50, offset=50), "postgresql")
    assert set(re.findall(r"\b(?:FROM|JOIN) (\w+)", plain)) == {"study", "hit", "page"}
    # Instances of a study may differ in what is searched by; the table has the greatest values alone.
    for search in (Search(matches=keys(PatientID="1")), Search(collection="acme"), Search(study=("1.2",))):
        assert "instances_current" in statement(search, "postgresql")[0]


def test_no_value_is_written_into_a_statement():
    matches = keys(PatientName="'Doe", PatientID="it's", StudyDescription="*'*", PatientComments="o'clock")
    for dialect in DIALECTS:
        text, parameters = statement(Search(study=("1'",), matches=matches, collection="'x"), dialect)
        assert not {"'Doe", "'doe", "it's", "o'clock", "1'", "'x"} & set(text.split())
        assert {"it's", "o'clock", "1'", "'x"} <= set(parameters.values())


def plan(path, search):
    """Return how SQLite looks up the rows of a search."""
    text, parameters = statement(search, "sqlite")
    values = to_parameters(parameters, check_statement(text, parameters))
    with closing(sqlite3.connect(path)) as connection:
        return [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]


@pytest.mark.parametrize(
    ("search", "index"),
    [
        (Search(limit=50), "instances_by_study_date"),
        (Search(matches=keys(PatientName="a*"), limit=50), "instances_by_study_date"),
        (
            Search(matches=keys(StudyDate="20200101-", ModalitiesInStudy="CT"), limit=50),
            "instances_by_study_date",
        ),
        (Search("series", limit=50), "instances_by_study_date"),
        (Search("instance", matches=keys(Modality="CT"), limit=50), "instances_by_study_date"),
        (Search(matches=keys(PatientID="1"), limit=50), "instances_by_patient_id"),
        (Search("instance", matches=keys(PatientID="1"), limit=50), "instances_by_patient_id"),
        (Search(matches=keys(AccessionNumber="1"), limit=50), "instances_by_accession_number"),
        (Search(matches=keys(SeriesInstanceUID="1"), limit=50), "instances_by_series_instance_uid"),
        (Search("instance", instance=("1",)), "instances_by_sop_instance_uid"),
        (Search("series", study=("1",), limit=50), "instances_by_study_instance_uid"),
        (Search("instance", study=("1",), series=("1",)), "instances_by_study_instance_uid"),
    ],
)
def test_sqlite_reads_no_more_than_it_must(tmp_path, search, index):
    warehouse = open_warehouse(f"sqlite:{tmp_path}/lake.db")
    warehouse.create()
    warehouse.close()
    steps = plan(tmp_path / "lake.db", search)
    read = [step for step in steps if re.search(r"\b[ikn] USING", step)]
    assert any(re.search(rf"\b{index}\b", step) for step in read)
    scanned = [step for step in steps if re.match(r"SCAN ([ijkmnew]|instances)\b", step)]
    assert all("USING" in step and "instances_by_study_date" in step for step in scanned)
