"""A data set through a profile, read again by pydicom."""

import io

from pydicom import dcmread
from pydicom.dataset import Dataset

from app.dicom.deidentify import deidentify_dataset
from app.dicom.deidentify.profile import PROFILES, Profile
from app.dicom.read.dataset import read_dataset
from app.model.keys import Keys
from tests.data import content

SECRET = b"0123456789abcdef0123456789abcdef"
KEYS = Keys(SECRET)


def clean_bytes(data: bytes, profile: Profile | str = "basic") -> bytes:
    """Return the clean file of a file."""
    chosen = PROFILES[profile] if isinstance(profile, str) else profile
    return deidentify_dataset(read_dataset(content(data)), chosen, KEYS).file.whole()


def clean(data: bytes, profile: Profile | str = "basic") -> Dataset:
    """Return the clean data set of a file, as pydicom reads it."""
    return dcmread(io.BytesIO(clean_bytes(data, profile)))
