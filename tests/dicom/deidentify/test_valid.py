"""A clean copy is as valid as its original, by dciodvfy (dicom3tools), which knows the IODs of PS3.3."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from app.dicom.deidentify.profile import PROFILES
from app.model.errors import DicomlakeError
from tests.data import identity, part10
from tests.dicom.deidentify.cleaned import clean, clean_bytes
from tests.parts import need

FOLDER = Path(get_testdata_file("CT_small.dcm", download=False)).parent
NUMBER = re.compile(r"\b\d+(\.\d+)*\b")
VALUE = re.compile(r"= <[^>]*>")
UNREAD = "Dicom dataset read failed"
OWN_META = "(0x0002,"
"""File meta information is new; a UID that is not valid in the data set is not valid there either."""


def faults(path: Path) -> Counter[str]:
    """Return the errors that are found in a file, without the values that they quote."""
    ended = subprocess.run(["dciodvfy", path], capture_output=True, timeout=60, check=False)
    lines = (ended.stdout + ended.stderr).decode("latin-1").splitlines()
    return Counter(VALUE.sub("", NUMBER.sub("", line)) for line in lines if "Error - " in line)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_copy_has_no_fault_that_its_original_lacks(profile, tmp_path):
    need("dciodvfy", shutil.which("dciodvfy") is not None, "apt-get install dicom3tools")
    new, compared, copy = {}, 0, tmp_path / "copy.dcm"
    for path in sorted(FOLDER.glob("*.dcm")):
        before = faults(path)
        if any(UNREAD in line for line in before):
            continue
        try:
            copy.write_bytes(clean_bytes(path.read_bytes(), profile))
        except DicomlakeError:
            continue
        compared += 1
        added = [line for line in faults(copy) - before if OWN_META not in line]
        if added:
            new[path.name] = added
    assert compared > 20
    assert new == {}


def test_a_text_of_which_nothing_is_left_is_replaced_rather_than_emptied():
    data = part10(identity(PatientName="DOE^JOHN", Manufacturer="Doe", Laterality=""))
    for profile in ("basic", "research"):
        made = clean(data, profile)
        assert (made.Manufacturer, made.Laterality) == ("REMOVED", "")
