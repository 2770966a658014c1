"""Kinds of objects that may show names beyond the reach of rules for attributes, and what releases them."""

from __future__ import annotations

from app.dicom.deidentify.profile import Profile
from app.dicom.deidentify.table import SOP_CLASSES

STORAGE = "1.2.840.10008.5.1.4.1.1."
DICOMDIR = "1.2.840.10008.1.3.10"
RETIRED_IMAGES = frozenset(STORAGE + last for last in ("5", "12.3"))
"""Nuclear medicine and biplane angiography before 1998: images like their successors."""
VIDEO = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in range(100, 109))
CAPTURES = frozenset(STORAGE + last for last in ("7", "7.1", "7.2", "7.3", "7.4"))
ULTRASOUND = frozenset(STORAGE + last for last in ("3", "3.1", "6", "6.1", "6.2"))
FILMED = frozenset(STORAGE + last for last in ("77.1.1.1", "77.1.2.1", "77.1.4.1", "77.1.9"))


def held_back(sop_class: str, transfer_syntax: str, burned_in: str, profile: Profile) -> str:
    """Return why an object may not be released, empty if it may.

    Parameters
    ----------
    sop_class, transfer_syntax : UIDs
    burned_in : Burned In Annotation, as the object has it
    """
    options = profile.options
    if sop_class == DICOMDIR:
        return "a DICOMDIR names files and patients: make a new one of the clean files"
    if (
        transfer_syntax.startswith("1.2.840.10008.1.2.4.10") and transfer_syntax in VIDEO
    ) or sop_class in FILMED:
        return "video cannot be checked for burned-in text"
    if sop_class.startswith(STORAGE + "104."):
        return "encapsulated documents cannot be cleaned"
    if sop_class.startswith(STORAGE + "88.") and "structured_content" not in options:
        return "structured reports need the option structured_content"
    if "pixels" not in options:
        if sop_class in CAPTURES or sop_class in ULTRASOUND:
            return "this kind often has burned-in text, so it needs the option pixels"
        if burned_in == "YES":
            return "Burned In Annotation is YES, so it needs the option pixels"
    if sop_class not in SOP_CLASSES and sop_class not in RETIRED_IMAGES and sop_class not in ULTRASOUND:
        return "its SOP class is not known"
    return ""
