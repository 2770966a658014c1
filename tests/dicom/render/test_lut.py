"""Lookup tables as they are stored (PS3.3 C.11.1.1.1)."""

from pydicom.dataset import Dataset

from app.dicom.render.lut import LookupTable, read_lookup_table
from tests.data import apply


def table(signed: bool = False, **elements: object) -> LookupTable:
    found = read_lookup_table(apply(Dataset(), **elements), signed=signed, little_endian=True)
    assert found is not None
    return found


def test_no_entries_mean_65536():
    assert len(table(LUTDescriptor=[0, 0, 16], LUTData=bytes(131072)).entries) == 65536


def test_eight_bit_entries_may_share_a_word():
    assert table(LUTDescriptor=[4, 0, 8], LUTData=b"\1\2\3\4").entries.tolist() == [1, 2, 3, 4]


def test_first_mapped_value_is_signed_where_values_are():
    assert table(True, LUTDescriptor=[2, 65535, 16], LUTData=b"\1\0\2\0").first == -1
    assert table(False, LUTDescriptor=[2, 65535, 16], LUTData=b"\1\0\2\0").first == 65535


def test_the_number_of_entries_is_unsigned_beside_a_signed_first_value():
    item = apply(Dataset(), LUTDescriptor=[40000 - 65536, -3, 16], LUTData=bytes(80000))
    item["LUTDescriptor"].VR = "SS"
    found = read_lookup_table(item, signed=True, little_endian=True)
    assert found is not None
    assert (len(found.entries), found.first) == (40000, -3)
