"""What a search finds, alike in every warehouse; a test class inherits this and has a fixture `warehouse`."""

import json
from datetime import UTC, date, datetime, time, timedelta

from app.dicom.metadata.dictionary import attribute
from app.warehouse import Warehouse, find
from app.warehouse.search import MAX_COUNTED, Match, Search
from tests.warehouse.contract import NOON, instance_row


def row(study, series, instance, **columns):
    """Return a row of `instances` for the instance 1.S.E.I in an object of its own."""
    uid = f"1.{study}.{series}.{instance}"
    return {
        **instance_row(uid, f"gs://b/{uid}"),
        "study_instance_uid": f"1.{study}",
        "series_instance_uid": f"1.{study}.{series}",
        "sop_instance_uid": uid,
        **columns,
    }


def keys(**values):
    """Return what a search has to match: `A__B` is the attribute B in the sequence A."""
    return tuple(
        Match(tuple(attribute(one) for one in name.split("__")), value) for name, value in values.items()
    )


def uids(warehouse, level="study", **search):
    """Return the UIDs of what is found, in order; keys are those that begin with an upper-case letter."""
    own = {name: value for name, value in search.items() if name.islower()}
    matches = keys(**{name: value for name, value in search.items() if not name.islower()})
    column = {"study": "study", "series": "series", "instance": "sop"}[level]
    return [
        one[f"{column}_instance_uid"] for one in find(warehouse, Search(level, matches=matches, **own)).rows
    ]


PEOPLE = [
    # patient ID, name, folded name (by PS3.5 6.2.1 without accents and case), date, time, modality
    ("P-1", "Müller^Jürgen", "muller^jurgen", date(2020, 1, 10), time(10, 15, 30, 500000), "CT"),
    ("P-2", "Yamada^Tarou", "yamada^tarou=山田^太郎=やまた^たろう", date(2020, 1, 11), time(23, 0), "MR"),
    ("p-1", "MULLER^ANNA", "muller^anna", date(2020, 1, 12), None, "CT"),
    ("100%_[a]", "O'Brien^[x]", "o'brien^[x]", None, None, "US"),
    (None, None, None, date(2020, 1, 12), time(0, 0), None),
]


def people():
    """Return a study for each of PEOPLE, with one instance."""
    columns = ("patient_id", "patient_name", "patient_name_folded", "study_date", "study_time", "modality")
    return [
        row(number, 1, 1, **dict(zip(columns, one, strict=True)), accession_number=f"A{number}")
        for number, one in enumerate(PEOPLE, 1)
    ]


VALUES = {
    "PatientID": {
        "P-1": "1.1",
        "P-?": "1.2 1.1",
        "?-1": "1.3 1.1",
        "*-*": "1.3 1.2 1.1",
        "p*": "1.3",
        "P": "",
        "*": "1.3 1.5 1.2 1.1 1.4",
        "": "1.3 1.5 1.2 1.1 1.4",
        "%": "",
        "P_1": "",
        "100%_[a]": "1.4",
        "100%_[a]*": "1.4",
        "[0-9]*": "",
        " P-1 ": "1.1",
        "P-1,P-2": "",
        "' OR '1'='1": "",
        "\\": "",
        "😀": "",
    },
    "PatientName": {
        "müller^jürgen": "1.1",
        "MULLER^*": "1.3 1.1",
        "Müller": "",
        "Müller*": "1.3 1.1",
        "Yamada^Tarou": "1.2",
        "山田^太郎": "",
        "山田*": "",
        "=山田^太郎": "1.2",
        "=山田*": "1.2",
        "==やまだ^*": "1.2",
        "=Yamada*": "",
        "*山田*": "1.2",
        "Yamada^Tarou=山田^太郎=やまだ^たろう": "1.2",
        "yamada^tarou^^=山田^太郎": "1.2",
        "*太郎": "1.2",
        "o'brien^[x]": "1.4",
        "o'brien^[?]": "1.4",
        "^": "",
    },
    "StudyDate": {
        "20200110": "1.1",
        "20200110-20200111": "1.2 1.1",
        "20200111-": "1.3 1.5 1.2",
        "-20200111": "1.2 1.1",
        "19990101": "",
        "*": "1.3 1.5 1.2 1.1 1.4",
    },
    "StudyTime": {
        "101530.5": "1.1",
        "1015": "1.1",
        "10": "1.1",
        "101529": "",
        "000000": "1.5",
        "10-23": "1.2 1.1",
        "101531-": "1.2",
        "-101530": "1.5 1.1",
    },
    "ModalitiesInStudy": {
        "CT": "1.3 1.1",
        "CT,US": "1.3 1.1 1.4",
        "CT\\MR": "1.3 1.2 1.1",
        "?R": "1.2",
        "ct": "",
    },
    "StudyInstanceUID": {"1.1": "1.1", "1.4,1.2,1.9": "1.2 1.4", "1.*": ""},
    "SOPInstanceUID": {"1.3.1.1": "1.3", "1.3.1": ""},
    "AccessionNumber": {"A2": "1.2", "A?": "1.3 1.5 1.2 1.1 1.4"},
}
"""Attribute -> value -> which of PEOPLE match."""


class SearchContract:
    """The promises of app.warehouse.find."""

    values = VALUES

    def test_instances_are_found_by_their_uids_in_pythons_types(self, warehouse: Warehouse):
        stored = {
            "study_date": date(1999, 12, 31),
            "study_time": time(23, 59, 58, 500000),
            "image_type": ["ORIGINAL", "PRIMARY"],
            "warnings": [{"tag": "00100030", "code": "not_a_date"}],
            "pixel_spacing": [0.5, 0.25],
            "rows": 512,
            "metadata_uri": "gs://a/1.json",
            "ingested_at": datetime(2026, 3, 1, 13, tzinfo=UTC),
        }
        warehouse.append("instances", [row(1, 1, 1, **stored), row(1, 1, 2), row(1, 2, 1), row(2, 1, 1)])
        search = Search("instance", study=("1.1",), series=("1.1.1",), instance=("1.1.1.1",))
        (found,) = find(warehouse, search).rows
        assert {name: found[name] for name in stored} == stored
        assert (found["object_uri"], found["member"], found["generation"]) == ("gs://b/1.1.1.1", None, 1)
        assert "metadata" not in found
        assert find(warehouse, Search("instance", study=("1.9",))).rows == []
        assert find(warehouse, Search("instance", study=("1.1",), series=("1.2.1",))).rows == []

    def test_instances_come_by_series_and_instance_number(self, warehouse: Warehouse):
        rows = [
            row(1, 1, 1, series_number=2, instance_number=10),
            row(1, 1, 2, series_number=2, instance_number=9),
            row(1, 2, 1, series_number=1, instance_number=11),
            row(1, 3, 1),
        ]
        warehouse.append("instances", rows)
        found = find(warehouse, Search("instance", study=("1.1",))).rows
        assert [one["sop_instance_uid"] for one in found] == ["1.1.3.1", "1.1.2.1", "1.1.1.2", "1.1.1.1"]

    def test_of_two_objects_with_one_instance_the_newest_row_is_found(self, warehouse: Warehouse):
        later = NOON + timedelta(hours=1)
        rows = [
            row(1, 1, 1),
            row(1, 1, 1, row_id="copy", object_uri="gs://b/copy", ingested_at=later),
            row(1, 1, 2),
            row(1, 1, 2, row_id="gone", object_uri="gs://b/gone", ingested_at=later),
            {**instance_row("removal", "gs://b/gone", event_type="OBJECT_DELETE")},
        ]
        warehouse.append("instances", rows)
        found = find(warehouse, Search("instance", series=("1.1.1",))).rows
        assert [one["object_uri"] for one in found] == ["gs://b/copy", "gs://b/1.1.1.2"]

    def test_studies_come_by_date_the_newest_first_and_then_by_uid(self, warehouse: Warehouse):
        warehouse.append("instances", people())
        everything = ["1.3", "1.5", "1.2", "1.1", "1.4"]
        assert uids(warehouse) == everything
        pages = [find(warehouse, Search(limit=2, offset=offset)) for offset in (0, 2, 4, 6)]
        assert [[one["study_instance_uid"] for one in page.rows] for page in pages] == [
            *(everything[:2], everything[2:4], everything[4:], []),
        ]
        assert [page.remaining for page in pages] == [3, 1, 0, 0]
        assert uids(warehouse, "series", limit=3) == ["1.3.1", "1.5.1", "1.2.1"]
        assert uids(warehouse, "instance", limit=2, offset=1) == ["1.5.1.1", "1.2.1.1"]

    def test_a_study_is_aggregated_over_all_its_instances(self, warehouse: Warehouse):
        birth = {"patient_birth_date": date(1970, 1, 2), "patient_name": "Doe^Jane"}
        rows = [
            row(1, 1, 1, modality="MR", study_date=date(2020, 1, 1), series_number=1, **birth),
            row(1, 1, 2, modality="MR", study_date=date(2020, 1, 1), series_number=1, **birth),
            row(1, 2, 1, modality="CT", study_date=date(2020, 1, 1), series_number=2, **birth),
            row(2, 1, 1, modality="US", study_date=date(2021, 1, 1)),
            row(1, 3, 1, row_id="gone", object_uri="gs://b/gone", modality="PT"),
            {**instance_row("removal", "gs://b/gone", event_type="OBJECT_DELETE")},
        ]
        warehouse.append("instances", rows)
        (study,) = find(warehouse, Search(matches=keys(ModalitiesInStudy="CT"), limit=10)).rows
        assert (study["modalities"], study["number_of_series"], study["number_of_instances"]) == (
            "CT,MR",
            2,
            3,
        )
        assert (study["patient_birth_date"], study["patient_name"]) == (date(1970, 1, 2), "Doe^Jane")
        assert study["first_ingested_at"] == NOON
        one, two = find(warehouse, Search("series", study=("1.1",), limit=10)).rows
        assert (one["number_of_instances"], two["number_of_instances"]) == (2, 1)
        assert (one["modality"], two["series_number"]) == ("MR", 2)
        assert uids(warehouse, "series", ModalitiesInStudy="CT", Modality="MR", limit=10) == ["1.1.1"]
        assert uids(warehouse, "instance", ModalitiesInStudy="CT", Modality="MR") == ["1.1.1.1", "1.1.1.2"]
        assert uids(warehouse, ModalitiesInStudy="PT", limit=10) == []

    def test_values_match_as_dicom_says(self, warehouse: Warehouse):
        warehouse.append("instances", people())
        for name, values in self.values.items():
            for value, found in values.items():
                assert (name, value, uids(warehouse, **{name: value}, limit=9)) == (
                    name,
                    value,
                    found.split(),
                )

    def test_ranges_of_date_and_time_are_one_span(self, warehouse: Warehouse):
        warehouse.append("instances", people())

        def between(days, times):
            return uids(warehouse, StudyDate=days, StudyTime=times, limit=9)

        assert between("20200110-20200111", "120000-230000") == ["1.2"]
        assert between("20200110-20200111", "100000-220000") == ["1.1"]
        assert between("20200110-20200113", "120000-110000") == ["1.3", "1.5", "1.2"]
        assert between("20200111-", "230001-") == ["1.3", "1.5"]
        assert between("-20200110", "-101530") == ["1.1"]
        assert between("20200110", "100000-110000") == ["1.1"]
        assert between("20200110", "120000-130000") == []

    def test_all_keys_have_to_match(self, warehouse: Warehouse):
        warehouse.append("instances", people())
        assert uids(warehouse, PatientID="P-1", StudyDate="20200110", limit=9) == ["1.1"]
        assert uids(warehouse, PatientID="P-1", StudyDate="20200111", limit=9) == []
        assert uids(warehouse, PatientName="muller*", Modality="CT", StudyDate="20200111-", limit=9) == [
            "1.3"
        ]

    def test_numbers_lists_and_other_names_match(self, warehouse: Warehouse):
        rows = [
            row(1, 1, 1, instance_number=1, image_type=["ORIGINAL", "PRIMARY"], pixel_spacing=[0.5, 0.25]),
            row(1, 1, 2, instance_number=12, slice_thickness=2.5, referring_physician_name="Ärzte^Heinz"),
            row(1, 1, 3, instance_number=-3, collection="acme"),
        ]
        warehouse.append("instances", rows)

        def numbers(**search):
            return [uid.rpartition(".")[2] for uid in uids(warehouse, "instance", **search)]

        assert numbers(InstanceNumber=" 1") == ["1"]
        assert numbers(InstanceNumber="+12") == ["2"]
        assert numbers(InstanceNumber="-3,1") == ["3", "1"]
        assert numbers(InstanceNumber="1.5") == []
        assert numbers(ImageType="PRIMARY") == ["1"]
        assert numbers(ImageType="PRIM*") == ["1"]
        assert numbers(ImageType="SECONDARY") == []
        assert numbers(PixelSpacing="0.250") == ["1"]
        assert numbers(SliceThickness="2.50") == ["2"]
        assert numbers(ReferringPhysicianName="ärzte^*") == ["2"]
        assert numbers(ReferringPhysicianName="ÄRZTE^HEINZ^") == ["2"]
        assert numbers(ReferringPhysicianName="Heinz") == []
        assert numbers(collection="acme") == ["3"]

    def test_what_has_no_column_is_searched_in_the_document(self, warehouse: Warehouse):
        step = {"ScheduledProcedureStepID": "S1", "RequestedProcedureID": ["R1", "R2"]}
        documents = [
            {
                "PatientWeight": 70.5,
                "SeriesDate": "20200110",
                "PerformedProcedureStepStartTime": "101530.25",
                "RequestAttributesSequence": [{"ScheduledProcedureStepID": "S0"}, step],
                "OperatorsName": ["Ålen^Eva", "Doe^J"],
                "0009,ACME 1.0,01": "private",
                "ImageComments": "100% [sure]",
                "AcquisitionDateTime": "20200110101530.5",
            },
            {"00101030": 80, "00400275": [{"00400009": "S1"}], "0009,OTHER,01": "private"},
            {
                "RequestAttributesSequence": "no sequence",
                "PatientWeight": "heavy",
                "OperatorsName": None,
                "AcquisitionDateTime": "removed",
                "ContentDate": "(removed)",
            },
        ]
        rows = [row(1, 1, number, metadata=json.dumps(one)) for number, one in enumerate(documents, 1)]
        warehouse.append("instances", [*rows, row(1, 1, 4)])

        def numbers(**search):
            return [uid.rpartition(".")[2] for uid in uids(warehouse, "instance", **search)]

        assert numbers(PatientWeight="70.50") == ["1"]
        assert numbers(PatientWeight="80") == ["2"]
        assert numbers(PatientWeight="0") == []
        assert numbers(PerformedProcedureStepStartTime="1015-1016") == ["1"]
        assert numbers(PerformedProcedureStepStartTime="101530") == ["1"]
        assert numbers(PerformedProcedureStepStartTime="101531-") == []
        assert numbers(RequestAttributesSequence__ScheduledProcedureStepID="S1") == ["1", "2"]
        assert numbers(RequestAttributesSequence__RequestedProcedureID="R?") == ["1"]
        assert numbers(RequestAttributesSequence__RequestedProcedureID="R") == []
        assert numbers(OperatorsName="ålen^eva") == ["1"]
        assert numbers(OperatorsName="DOE*") == ["1"]
        assert numbers(ImageComments="100% [sure]") == ["1"]
        assert numbers(ImageComments="100_ [sure]") == []
        assert numbers(ImageComments="*[s*") == ["1"]
        assert numbers(AcquisitionDateTime="20200110-20200111") == ["1"]
        assert numbers(AcquisitionDateTime="-20200109") == []
        assert numbers(AcquisitionDateTime="2020-") == ["1"]  # text that is no date is in no range
        assert numbers(ContentDate="-20200109") == []
        private = Match((attribute("0009,ACME 1.0,01"),), "priv*")
        assert [
            one["sop_instance_uid"] for one in find(warehouse, Search("instance", matches=(private,))).rows
        ] == ["1.1.1.1"]
        with_creator = Search("instance", creators=(("0009", "OTHER"),))
        assert [one["sop_instance_uid"] for one in find(warehouse, with_creator).rows] == ["1.1.1.2"]

    def test_attributes_without_a_column_are_returned_when_asked_for(self, warehouse: Warehouse):
        step = [{"ScheduledProcedureStepID": "S1"}]
        document = {"PatientWeight": 70.5, "RequestAttributesSequence": step, "PatientComments": "true"}
        by_tag = {"00101030": 80, "00104000": ["a", "b"]}
        rows = [row(n, 1, 1, metadata=json.dumps(one)) for n, one in enumerate((document, by_tag), 1)]
        warehouse.append("instances", [*rows, row(3, 1, 1)])
        more = tuple(
            attribute(name) for name in ("PatientWeight", "RequestAttributesSequence", "PatientComments")
        )
        for level in ("study", "series", "instance"):
            one, two, three = find(warehouse, Search(level, more=more, limit=9)).rows
            assert one["more"] == {"00101030": 70.5, "00400275": step, "00104000": "true"}
            assert two["more"] == {"00101030": 80, "00104000": ["a", "b"]}
            assert three["more"] == {}

    def test_only_the_columns_that_are_asked_for_are_returned(self, warehouse: Warehouse):
        warehouse.append("instances", [row(1, 1, 1, patient_id="P", size_bytes=7)])
        wanted = frozenset({"patient_id", "size_bytes"})
        for level, names in (
            ("study", "study"),
            ("series", "study series"),
            ("instance", "study series sop"),
        ):
            (found,) = find(warehouse, Search(level, columns=wanted, limit=9)).rows
            assert (found["patient_id"], found["size_bytes"]) == ("P", 7)
            assert found.keys() - wanted == {f"{name}_instance_uid" for name in names.split()}

    def test_a_study_whose_instances_disagree_comes_once_at_its_last_date(self, warehouse: Warehouse):
        rows = [
            row(1, 1, 1, study_date=date(2020, 1, 1)),
            row(1, 1, 2, study_date=date(2022, 1, 1)),
            row(1, 1, 3),
            row(2, 1, 1, study_date=date(2021, 1, 1)),
            row(3, 1, 1, row_id="old", object_uri="gs://b/3", study_date=date(2023, 1, 1)),
            row(3, 1, 1, row_id="new", object_uri="gs://b/3", generation=2, study_date=date(2019, 1, 1)),
        ]
        warehouse.append("instances", rows)
        assert uids(warehouse, limit=9) == ["1.1", "1.2", "1.3"]
        assert uids(warehouse, limit=1, offset=1) == ["1.2"]
        assert uids(warehouse, StudyDate="-20201231", limit=9) == ["1.1", "1.3"]

    def test_rows_without_uids_are_not_found(self, warehouse: Warehouse):
        warehouse.append("instances", [instance_row("r1", patient_id="P"), row(1, 1, 1, patient_id="P")])
        assert uids(warehouse, PatientID="P", limit=9) == ["1.1"]
        assert uids(warehouse, limit=9) == ["1.1"]
        assert uids(warehouse, "instance", limit=9) == ["1.1.1.1"]

    def test_results_after_the_page_are_counted_up_to_a_limit(self, warehouse: Warehouse):
        rows = [row(number, 1, 1) for number in range(MAX_COUNTED + 10)]
        warehouse.append("instances", rows)
        for level in ("study", "series", "instance"):
            assert find(warehouse, Search(level, limit=2)).remaining == MAX_COUNTED
            assert find(warehouse, Search(level, limit=2, offset=500)).remaining == 8


BAD = {
    "StudyDate": (
        "yesterday",
        "20201301",
        "20200230",
        "2020",
        "20200101-x",
        "-",
        "20200101-20200102-20200103",
    ),
    "StudyTime": ("9", "2500", "1060", "10-x", "noon"),
    "SeriesNumber": ("abc", "1-2", "1,x", ",", "nan", "1e"),
    "PatientWeight": ("heavy",),
    "PatientName": ("*".join("abcdefghijk"), "a\0", "a\nb"),
    "PixelData": ("AAAA",),
    "RequestAttributesSequence": ("x",),
    "PatientID__StudyDate": ("20200101",),
    "AcquisitionDateTime": ("202", "now", "2020-x"),
}
