"""What becomes of each element, at every depth."""

from datetime import date, timedelta

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.dicom.deidentify.profile import Profile
from app.model.errors import CannotDeidentify
from tests.data import SOP, STUDY, ct, ct_dataset, part10, sr
from tests.dicom.deidentify.cleaned import KEYS, clean, clean_bytes


def item(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def test_basic_removes_the_patient_and_keeps_the_image():
    made = clean(ct(InstitutionName="General", PatientAge="042Y"))
    assert made.PatientName == made.PatientID
    assert str(made.PatientID).startswith("P")
    assert made.PatientBirthDate == ""
    assert made.StudyDate == ""
    assert made.AccessionNumber == ""
    assert "InstitutionName" not in made
    assert "PatientAge" not in made
    assert "SeriesDescription" not in made
    assert (made.Rows, made.Columns, made.Modality, made.BodyPartExamined) == (16, 8, "CT", "CHEST")
    assert made.PixelSpacing == [0.5, 0.25]
    assert made.PixelData == ct_dataset().PixelData


def test_uids_are_replaced_in_the_file_meta_too():
    made = clean(ct())
    assert made.SOPInstanceUID == KEYS.uid(SOP)
    assert made.StudyInstanceUID == KEYS.uid(STUDY)
    assert made.file_meta.MediaStorageSOPInstanceUID == KEYS.uid(SOP)
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"


def test_the_object_says_what_was_done():
    made = clean(ct(BurnedInAnnotation=None))
    assert made.PatientIdentityRemoved == "YES"
    assert made.DeidentificationMethod == "dicomlake basic"
    assert [one.CodeValue for one in made.DeidentificationMethodCodeSequence] == ["113100"]
    assert made.LongitudinalTemporalInformationModified == "REMOVED"
    assert "BurnedInAnnotation" not in made


def test_the_codes_are_those_of_the_options():
    made = clean(ct(), "research")
    codes = [one.CodeValue for one in made.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113104", "113105", "113107", "113108", "113111"]
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_what_is_not_compressed_comes_out_as_explicit_little_endian(syntax):
    made = clean(ct(syntax))
    assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert made.PixelData == ct_dataset().PixelData
    assert (made.RescaleSlope, made.WindowCenter) == (2, -900)


def test_the_same_bytes_give_the_same_bytes():
    assert clean_bytes(ct()) == clean_bytes(ct())


def test_rules_hold_at_every_depth():
    inner = item(PatientName="Roe^Richard", StudyDate="20240101", ReferencedSOPInstanceUID=SOP)
    middle = item(ReferencedSeriesSequence=Sequence([inner]))
    made = clean(ct(ReferencedSeriesSequence=Sequence([middle])))
    found = made.ReferencedSeriesSequence[0].ReferencedSeriesSequence[0]
    assert found.StudyDate == ""
    assert str(found.PatientName) == made.PatientID
    assert found.ReferencedSOPInstanceUID == KEYS.uid(SOP)


def test_what_the_table_forgets_goes_by_its_vr():
    made = clean(
        ct(
            ROIInterpreter=None,
            TargetFrameOfReferenceUID="1.2.826.0.1.3680043.10.9.5",
            RetrieveURL="http://pacs/doe",
            ScheduledStationAETitle="PACS1",
            InstanceCoercionDateTime="20240131",
        )
    )
    assert made.get("TargetFrameOfReferenceUID", KEYS.uid("1.2.826.0.1.3680043.10.9.5")).startswith("2.25.")
    for keyword in ("RetrieveURL", "ScheduledStationAETitle", "InstanceCoercionDateTime"):
        assert keyword not in made


def test_known_identifiers_go_from_other_text():
    made = clean(
        ct(
            ConvolutionKernel="B30 Doe",
            ContrastBolusRoute="for JANE doe, P-1",
            AcquisitionContrast="UNKNOWN",
        )
    )
    assert made.ConvolutionKernel == "B30"
    assert "doe" not in made.ContrastBolusRoute.lower()
    assert made.AcquisitionContrast == "UNKNOWN"


def test_a_text_that_is_an_identifier_as_a_whole_becomes_a_dummy():
    # SegmentationImage: Algorithm Name is of type 1, and Segment Algorithm Name of type 1C (PS3.3 C.8.20.2).
    algorithm = item(AlgorithmName="Jane Doe", AlgorithmVersion="1")
    segment = item(
        SegmentAlgorithmName="DOE", SegmentationAlgorithmIdentificationSequence=Sequence([algorithm])
    )
    for profile in ("basic", "research", "internal"):
        made = clean(ct(SegmentSequence=Sequence([segment]), PatientPosition="DOE"), profile)
        (found,) = made.SegmentSequence
        assert found.SegmentAlgorithmName == "REMOVED"
        assert found.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "REMOVED"
        assert made.PatientPosition == ""  # of its few allowed values none says nothing


def test_coded_strings_stay_when_somebody_is_called_like_them():
    made = clean(ct(PatientName="Chest^Axial"))
    assert made.BodyPartExamined == "CHEST"
    assert made.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]


def test_private_and_unknown_elements_go():
    dataset = ct_dataset()
    block = dataset.private_block(0x0029, "MAKER TEST", create=True)
    block.add_new(0x01, "LO", "secret")
    dataset.add_new(0x00181FFE, "LO", "unknown")
    made = clean(part10(dataset))
    assert [element.tag for element in made if element.tag.is_private] == []
    assert 0x00181FFE not in made


def test_safe_private_elements_stay_with_their_creator_alone():
    dataset = ct_dataset()
    siemens = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    siemens.add_new(0x0C, "IS", "1000")
    siemens.add_new(0x0D, "CS", "DIRECTIONAL")
    siemens.add_new(0x08, "CS", "IMAGE NUM 4")
    other = dataset.private_block(0x0019, "OTHER", create=True)
    other.add_new(0x0C, "LO", "secret")
    made = clean(part10(dataset), "research")
    kept = {element.tag: str(element.value) for element in made if element.tag.is_private}
    assert kept == {0x00190010: "SIEMENS MR HEADER", 0x0019100C: "1000", 0x0019100D: "DIRECTIONAL"}


def test_a_private_sequence_with_a_wrong_vr_is_not_copied():
    dataset = ct_dataset()
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "UN", b"Doe^Jane")
    made = clean(part10(dataset, ImplicitVRLittleEndian), "research")
    assert b"Doe" not in clean_bytes(part10(dataset, ImplicitVRLittleEndian), "research")
    assert 0x0019100C not in made


def test_numbers_that_are_none_are_dropped():
    data = ct().replace(b"2.5 ", b"DoeJ")
    assert "SliceThickness" not in clean(data)


def test_overlays_and_curves_go():
    dataset = ct_dataset()
    dataset.add_new(0x60000010, "US", 16)
    dataset.add_new(0x60003000, "OW", b"\xff" * 16)
    dataset.add_new(0x60000022, "LO", "by Doe")
    dataset.add_new(0x50000022, "LO", "by Doe")
    made = clean(part10(dataset))
    assert [element.tag for element in made if element.tag.group in (0x5000, 0x6000)] == []


def test_preamble_padding_and_old_file_meta_go():
    dataset = ct_dataset()
    dataset.add_new(0xFFFCFFFC, "OB", b"Doe^Jane")
    data = part10(dataset)
    made = clean_bytes(b"Doe^Jane".ljust(128, b"\0") + data[128:])
    assert b"Doe" not in made
    assert made[:132] == bytes(128) + b"DICM"


def test_dates_move_and_times_stay():
    made = clean(ct(AcquisitionDateTime="20240131134501.5+0100", ContentDate="20240131"), "research")
    days = KEYS.days("patient\n\nP-1")
    assert -3650 <= days <= -1
    moved = f"{date(2024, 1, 31) + timedelta(days):%Y%m%d}"
    assert (made.StudyDate, made.ContentDate) == (moved, moved)
    assert made.AcquisitionDateTime == f"{moved}134501.5+0100"
    assert made.StudyTime == "134501.5"
    assert made.PatientBirthDate == ""


def test_dates_move_alike_for_one_patient_and_apart_for_another_issuer():
    first, second = clean(ct(StudyDate="20240131"), "research"), clean(ct(StudyDate="20240131"), "research")
    other = clean(ct(StudyDate="20240131", IssuerOfPatientID="B"), "research")
    assert first.StudyDate == second.StudyDate
    assert other.StudyDate != first.StudyDate
    assert other.PatientID != first.PatientID


def test_without_patient_id_the_study_stands_for_the_patient():
    made = clean(ct(PatientID=None), "research")
    assert made.StudyDate == f"{date(2024, 1, 31) + timedelta(KEYS.days('study' + chr(10) + STUDY)):%Y%m%d}"


def test_an_age_stays_and_great_age_is_given_as_90():
    assert clean(ct(PatientAge="042Y"), "research").PatientAge == "042Y"
    assert clean(ct(PatientAge="097Y"), "research").PatientAge == "090Y"


def test_descriptions_are_cleaned_word_by_word():
    made = clean(ct(StudyDescription="CT THORAX Doe 5551234 W CONTRAST"), "research")
    assert made.StudyDescription == "CT THORAX W CONTRAST"
    assert made.SeriesDescription == "Thorax"


def test_internal_keeps_dates_uids_device_and_institution():
    made = clean(
        ct(InstitutionName="General", StationName="CT1", ReferringPhysicianName="Poe^Ed"), "internal"
    )
    assert (made.StudyDate, made.StudyInstanceUID) == ("20240131", STUDY)
    assert (made.InstitutionName, made.StationName) == ("General", "CT1")
    assert made.file_meta.MediaStorageSOPInstanceUID == SOP
    assert made.ReferringPhysicianName == ""
    assert made.PatientID != "P-1"


def test_overrides_come_before_table_and_options():
    profile = Profile("own", overrides={0x00080060: "X", 0x0008103E: "K", 0x00100040: "D"})
    made = clean(ct(), profile)
    assert "Modality" not in made
    assert made.SeriesDescription == "Thorax"
    assert made.PatientSex == "REMOVED"


def test_a_report_is_held_back_until_its_content_is_cleaned():
    with pytest.raises(CannotDeidentify, match="structured_content"):
        clean(sr())
    made = clean(sr(depth=1), "research")
    found = made.ContentSequence[0]
    assert found.ValueType == "TEXT"
    assert found.TextValue == "finding at level 1"
    assert found.ConceptNameCodeSequence[0].CodeMeaning == "Finding"


def test_codes_of_public_schemes_stay_in_replaced_sequences_and_others_go():
    reference = item(
        ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2",
        ReferencedSOPInstanceUID=SOP,
        PurposeOfReferenceCodeSequence=Sequence(
            [code("121320", "DCM", "Uncompressed predecessor"), code("17", "99WARD", "Doe, room 4")]
        ),
    )
    made = clean(ct(SourceImageSequence=Sequence([reference]))).SourceImageSequence[0]
    public, local = made.PurposeOfReferenceCodeSequence
    assert made.ReferencedSOPInstanceUID == KEYS.uid(SOP)
    assert made.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert public.CodeMeaning == "Uncompressed predecessor"
    assert (local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning) == (
        "REMOVED",
        "99REMOVED",
        "REMOVED",
    )


def test_names_in_other_character_sets_are_found_and_the_rest_is_kept():
    made = clean(
        ct(
            SpecificCharacterSet="ISO_IR 100",
            PatientName="Ünsal^Émile",
            ContrastBolusRoute="für Ünsal: große",
        )
    )
    assert made.ContrastBolusRoute == "für : große"


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "option pixels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "option pixels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "documents"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.1.1"}, "video"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "DICOMDIR"),
        ({"SOPClassUID": "1.2.3.4"}, "not known"),
        ({"BurnedInAnnotation": "YES"}, "option pixels"),
    ],
)
def test_what_may_show_a_name_is_held_back(elements, reason):
    with pytest.raises(CannotDeidentify, match=reason):
        clean(ct(**elements))


def test_uids_below_dicoms_own_root_that_name_an_object_are_replaced():
    made = clean(ct(SOPInstanceUID="1.2.840.10008.5.1.4.1.1.481.3.1563491295"))
    assert made.SOPInstanceUID.startswith("2.25.")


def test_a_public_instance_stays_what_it_is_in_the_file_meta_too():
    hot_iron = "1.2.840.10008.1.5.1"
    made = clean(ct(SOPInstanceUID=hot_iron))
    assert (made.SOPInstanceUID, made.file_meta.MediaStorageSOPInstanceUID) == (hot_iron, hot_iron)


def test_a_description_without_a_known_word_is_treated_as_without_the_option():
    made = clean(ct(SeriesDescription="ZQ8K7X2", ProtocolName="ZQ8K7X2"), "research")
    assert "SeriesDescription" not in made
    assert "ProtocolName" not in made


def test_a_date_that_is_none_is_treated_as_without_the_option():
    data = ct(ContentDate="20240131").replace(b"20240131", b"31 Jan24")
    assert clean(data, "research").ContentDate == ""


def test_the_meaning_of_a_public_code_stays_when_somebody_is_called_like_it():
    region = code("51185008", "SCT", "Chest")
    made = clean(ct(PatientName="Chest^Doe", AnatomicRegionSequence=Sequence([region])))
    assert made.AnatomicRegionSequence[0].CodeMeaning == "Chest"
    region.CodeMeaning = "Chest of Doe"
    made = clean(ct(PatientName="Chest^Doe", AnatomicRegionSequence=Sequence([region])))
    assert made.AnatomicRegionSequence[0].CodeMeaning == "Chest of"


def test_where_dates_stay_the_date_of_birth_still_goes_from_texts():
    text = "born 02.01.1970, seen 31.01.2024"
    made = clean(ct(ContrastBolusRoute=text), "internal")
    assert (made.StudyDate, made.PatientBirthDate) == ("20240131", "")
    assert made.ContrastBolusRoute == "born , seen 31.01.2024"
