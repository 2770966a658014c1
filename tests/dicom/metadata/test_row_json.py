"""The JSON of a row: keyword keys, plain values, and what is left out."""

import importlib
import json
import pkgutil
import struct

import app.dicom
from app.dicom.metadata.dicom_json import to_metadata
from app.dicom.metadata.row_json import to_row_metadata
from app.model.options import MetadataOptions
from tests import data


def row(raw: bytes, **options: object) -> dict[str, object]:
    text = to_row_metadata(to_metadata(data.parse(raw)), MetadataOptions(**options))
    found: dict[str, object] = json.loads(text)
    return found


def test_the_row_has_keyword_keys_and_plain_values():
    found = row(data.with_private(PatientSex="", OtherPatientIDs=["a", "b"]))
    assert found["PatientName"] == "Doe^Jane"
    assert found["Rows"] == 16
    assert found["PixelSpacing"] == [0.5, 0.25]
    assert found["OtherPatientIDs"] == ["a", "b"]
    assert found["PatientSex"] is None
    assert found["0029,MAKER TEST,01"] == "secret"
    assert found["FileMetaInformation"]["TransferSyntaxUID"] == "1.2.840.10008.1.2.1"
    assert "PixelData" not in found


def test_sequences_in_the_row_are_lists_of_objects():
    found = row(data.enhanced(frames=2))
    assert found["SharedFunctionalGroupsSequence"] == [
        {"PixelMeasuresSequence": [{"PixelSpacing": [0.75, 0.5]}]}
    ]
    assert len(found["PerFrameFunctionalGroupsSequence"]) == 2


def test_the_row_can_be_cut_down():
    assert not [key for key in row(data.with_private(), private=False) if "," in key]
    assert row(data.with_private(), include=("PatientID", "00280010")) == {"PatientID": "P-1", "Rows": 16}


def test_the_row_may_have_tags_for_keys_and_private_elements_keep_theirs():
    found = row(data.with_private(data.ExplicitVRLittleEndian), keys="tag")
    assert (found["00100010"], found["00280010"]) == ("Doe^Jane", 16)
    assert found["0029,MAKER TEST,01"] == "secret"
    assert found["FileMetaInformation"]["00020010"] == "1.2.840.10008.1.2.1"
    assert "PatientName" not in found


def test_tags_are_keys_inside_sequences_too():
    found = row(data.enhanced(frames=1), keys="tag")
    assert found["52009229"] == [{"00289110": [{"00280030": [0.75, 0.5]}]}]


def test_what_is_kept_may_be_named_either_way_whatever_the_keys_are():
    kept = row(data.with_private(), keys="tag", include=("PatientID", "00280010"))
    assert kept == {"00100020": "P-1", "00280010": 16}


def test_repeating_groups_do_not_overwrite_each_other():
    planes = [
        data.element(tag, "US", struct.pack("<H", tag >> 16 & 0xFF)) for tag in (0x60000010, 0x60020010)
    ]
    found = row(data.raw(*planes))
    assert (found["60000010"], found["60020010"]) == (0, 2)


def test_what_a_worker_remembers_from_file_to_file_has_a_bound():
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(app.dicom.__path__, "app.dicom.")
    ]
    caches = {
        value for module in modules for value in vars(module).values() if hasattr(value, "cache_parameters")
    }
    assert len(caches) >= 5
    assert all(cache.cache_parameters()["maxsize"] is not None for cache in caches)
