"""Whom a data set is about: the subject that keys depend on, and every known identifier at any depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydicom.datadict import tag_for_keyword

from app.dicom.deidentify.profile import Profile
from app.dicom.deidentify.sweep import GLUED, Known, identifiers, person_spellings, squeeze
from app.dicom.deidentify.table import VOCABULARY
from app.dicom.read.byte_reader import Source
from app.dicom.read.charset import Charset, charset
from app.dicom.read.nesting import Node
from app.dicom.read.vr import public_vr

CHARSET = 0x00080005


def _tags(names: str) -> frozenset[int]:
    return frozenset(tag for name in names.split() if (tag := tag_for_keyword(name)) is not None)


PATIENT = _tags(
    "PatientName PatientID OtherPatientIDs OtherPatientNames PatientBirthName PatientMotherBirthName"
    " MedicalRecordLocator PatientTelephoneNumbers PatientAddress MilitaryRank InsurancePlanIdentification"
    " ResponsiblePerson PatientAlternativeCalendar AdmissionID AccessionNumber ClinicalTrialSubjectID"
)
"""Attributes that identify the patient or the visit."""
OTHERS = _tags(
    "IssuerOfAdmissionID InstitutionName InstitutionAddress ReferringPhysicianAddress"
    " ReferringPhysicianTelephoneNumbers ResponsibleOrganization PersonAddress PersonTelephoneNumbers"
    " FillerOrderNumberImagingServiceRequest PlacerOrderNumberImagingServiceRequest OrderEntererLocation"
    " RequestingService ScheduledStationName StationName DeviceSerialNumber ServiceEpisodeID"
    " SpecimenIdentifier ContainerIdentifier"
)
"""Attributes that identify staff, the institution or a device."""


def known_identifiers(source: Source, nodes: Iterable[Node], profile: Profile) -> Known:
    """Return the identifiers and dates of a data set that must not stay in it.

    Parameters
    ----------
    source : the bytes that the nodes lie in
    nodes : the elements of the data set itself
    profile : values that it keeps are not looked for
    """
    actions = profile.actions()
    keeps = {tag for tag, action in actions.items() if action == "K"}
    patient: list[str] = []
    people: list[str] = []
    others: list[str] = []
    days: set[tuple[int, int, int]] = set()
    pending: list[tuple[Sequence[Node], Charset]] = [(list(nodes), Charset())]
    while pending:
        item, outer = pending.pop()
        terms = next((node for node in item if node.tag == CHARSET), None)
        text_in = outer if terms is None else charset(source.value(terms.offset, terms.length))
        for node in item:
            tag = node.tag
            if node.vr == "SQ":
                pending += [(inner, text_in) for inner in node.items]
            elif not node.length or node.length > 1024 or tag in keeps or tag >> 16 & 1:
                continue
            elif tag in PATIENT or tag in OTHERS or node.vr == "PN" or public_vr(tag) == "PN":
                text = text_in.decode(source.value(node.offset, node.length).strip(b" \0"))[0]
                found = text.split("\\")
                if node.vr == "PN" or public_vr(tag) == "PN":
                    found = [spelling for name in found for spelling in person_spellings(name)]
                (patient if tag in PATIENT else others if tag in OTHERS else people).extend(found)
            elif node.vr in ("DA", "DT") and (profile.dates != "K" or tag in actions):
                days |= set(_days(source.value(node.offset, node.length)))
    names = identifiers(patient)
    around = {name for name in identifiers(people) if name not in VOCABULARY}
    around |= {name for value in others if len(name := squeeze(value)) > GLUED and name not in VOCABULARY}
    longest = sorted(names | around, key=lambda name: (-len(name), name))
    return Known(tuple(longest), frozenset(names), frozenset(days))


def _days(raw: bytes) -> Iterable[tuple[int, int, int]]:
    for value in raw.split(b"\\"):
        digits = value.strip(b" \0").replace(b".", b"", 2)[:8]
        if len(digits) == 8 and digits.isdigit():
            yield int(digits[:4]), int(digits[4:6]), int(digits[6:])


def subject_of(source: Source, nodes: Mapping[int, Node]) -> str:
    """Return the subject of pseudonym and date shift: issuer and ID of the patient, else the study.

    An object without either shares no subject with other objects, so its own UID is used.
    """

    def text(tag: int) -> str:
        node = nodes.get(tag)
        return "" if node is None else source.value(node.offset, node.length).decode("latin-1").strip(" \0")

    if identity := text(0x00100020):
        return f"patient\n{text(0x00100021)}\n{identity}"
    if study := text(0x0020000D):
        return f"study\n{study}"
    return f"instance\n{text(0x00080018)}"
