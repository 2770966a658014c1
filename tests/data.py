"""Data sets built in code, as the bytes of a file; nothing here is a real person's."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.model.values import Content, ObjectRef

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
"""Every transfer syntax whose pixels are not compressed."""

STUDY = "1.2.826.0.1.3680043.10.9.1"
SERIES = f"{STUDY}.2"
SOP = f"{SERIES}.3"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR_CLASS = "1.2.840.10008.5.1.4.1.1.4.1"
BASIC_TEXT_SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.11"


def identity(sop_class: str = CT_CLASS, **elements: object) -> Dataset:
    """Return a data set with UIDs, patient and study; a keyword sets an element, None leaves it out."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = SOP
    dataset.StudyDate = "20240131"
    dataset.StudyTime = "134501.5"
    dataset.AccessionNumber = "A-17"
    dataset.Modality = "CT"
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "P-1"
    dataset.PatientBirthDate = "19700102"
    dataset.PatientSex = "F"
    dataset.StudyInstanceUID = STUDY
    dataset.SeriesInstanceUID = SERIES
    dataset.StudyID = "S-1"
    return apply(dataset, **elements)


def apply(dataset: Dataset, **elements: object) -> Dataset:
    """Set elements by keyword, or remove those given as None, and return the data set."""
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    return dataset


def part10(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return the data set as a file with preamble and file meta; pixel data must already suit the syntax."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or CT_CLASS
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or SOP
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def bare(dataset: Dataset, syntax: str = ImplicitVRLittleEndian) -> bytes:
    """Return the data set alone, without preamble and file meta."""
    data = part10(dataset, syntax)
    length = struct.unpack("<I", data[140:144])[0]
    return data[144 + length :]


def pixels(rows: int, columns: int, syntax: str = ExplicitVRLittleEndian, frames: int = 1) -> bytes:
    """Return 16-bit samples 0, 1, 2, ... in the byte order of the syntax."""
    count = rows * columns * frames
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    return struct.pack(f"{order}{count}H", *(n % 65536 for n in range(count)))


def ct_dataset(syntax: str = ExplicitVRLittleEndian, **elements: object) -> Dataset:
    """Return a CT slice of 16 x 8 samples 0..127 with a rescale of slope 2, intercept -1024."""
    rows, columns = int(str(elements.get("Rows", 16))), int(str(elements.get("Columns", 8)))
    dataset = identity(
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        Manufacturer="Maker",
        SeriesDescription="Thorax",
        SeriesNumber="3",
        InstanceNumber="7",
        BodyPartExamined="CHEST",
        SliceThickness="2.5",
        PixelSpacing=["0.5", "0.25"],
        ImagePositionPatient=["0", "0", "-12.5"],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=rows,
        Columns=columns,
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        RescaleIntercept="-1024",
        RescaleSlope="2",
        WindowCenter="-900",
        WindowWidth="200",
        PixelData=pixels(rows, columns, syntax),
    )
    dataset["PixelData"].VR = "OW"
    return apply(dataset, **elements)


def ct(syntax: str = ExplicitVRLittleEndian, **elements: object) -> bytes:
    """Return the file of `ct_dataset`."""
    return part10(ct_dataset(syntax, **elements), syntax)


def minimal(syntax: str = ExplicitVRLittleEndian, **elements: object) -> bytes:
    """Return the smallest file that still is an instance: its UIDs and nothing to draw."""
    dataset = Dataset()
    dataset.SOPClassUID = CT_CLASS
    dataset.SOPInstanceUID = SOP
    dataset.StudyInstanceUID = STUDY
    dataset.SeriesInstanceUID = SERIES
    return part10(apply(dataset, **elements), syntax)


def enhanced(syntax: str = ExplicitVRLittleEndian, frames: int = 3, **elements: object) -> bytes:
    """Return an enhanced MR of 4 x 4 frames: spacing shared, thickness and window per frame."""
    measures, window, planes = Dataset(), Dataset(), []
    measures.PixelSpacing = ["0.75", "0.5"]
    for frame in range(frames):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = str(8 + 16 * frame), "16"
        thickness = Dataset()
        thickness.SliceThickness = str(3 + frame)
        group = Dataset()
        group.FrameVOILUTSequence = Sequence([window])
        group.PixelMeasuresSequence = Sequence([thickness])
        planes.append(group)
    shared_groups = Dataset()
    shared_groups.PixelMeasuresSequence = Sequence([measures])
    dataset = identity(
        ENHANCED_MR_CLASS,
        Modality="MR",
        NumberOfFrames=str(frames),
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=4,
        Columns=4,
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        SharedFunctionalGroupsSequence=Sequence([shared_groups]),
        PerFrameFunctionalGroupsSequence=Sequence(planes),
        PixelData=pixels(4, 4, syntax, frames),
    )
    dataset["PixelData"].VR = "OW"
    return part10(apply(dataset, **elements), syntax)


def sr(syntax: str = ExplicitVRLittleEndian, depth: int = 3, **elements: object) -> bytes:
    """Return a structured report whose content tree is `depth` items deep; there is nothing to draw."""
    content: list[Dataset] = []
    for level in range(depth, 0, -1):
        concept = Dataset()
        concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = "121071", "DCM", "Finding"
        item = Dataset()
        item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
        item.ConceptNameCodeSequence = Sequence([concept])
        item.TextValue = f"finding at level {level}"
        if content:
            item.ContentSequence = Sequence(content)
        content = [item]
    dataset = identity(BASIC_TEXT_SR_CLASS, Modality="SR", ContentSequence=Sequence(content))
    return part10(apply(dataset, **elements), syntax)


def with_private(syntax: str = ExplicitVRLittleEndian, **elements: object) -> bytes:
    """Return a CT with one private block: an LO `secret`, a DS 1.5 and four bytes of OB."""
    dataset = ct_dataset(syntax)
    block = dataset.private_block(0x0029, "MAKER TEST", create=True)
    block.add_new(0x01, "LO", "secret")
    block.add_new(0x02, "DS", "1.5")
    block.add_new(0x03, "OB", b"\x00\x01\x02\x03")
    return part10(apply(dataset, **elements), syntax)


def element(tag: int, vr: str, value: bytes = b"", length: int | None = None) -> bytes:
    """Return one explicit little endian element exactly as given, valid or not."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"):
        return head + struct.pack("<HI", 0, size) + value
    return head + struct.pack("<H", size) + value


def raw(*elements: bytes, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return a file of exactly these encoded elements; deflated where the syntax says so."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, "UI", uid)
    body = b"".join(elements)
    if syntax == DeflatedExplicitVRLittleEndian:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + body


def content(data: bytes, uri: str = "gs://landing/a.dcm", generation: int = 17) -> Content:
    """Return the bytes as the storage hands them over."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return Content(ObjectRef(bucket, name, generation), uri, len(data), data=data)


def parse(data: bytes) -> FileDataset:
    """Return the bytes read as the project reads them."""
    from app.dicom.read.dataset import read_dataset

    return read_dataset(content(data))
