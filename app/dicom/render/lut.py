"""Lookup tables of the Modality LUT and VOI LUT modules (PS3.3 C.11.1, C.11.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import numbers, words


@dataclass(frozen=True, slots=True)
class LookupTable:
    """`entries` (n,) uint16 for the inputs `first`, `first` + 1, ...; `complete`: no entry is missing."""

    first: int
    entries: np.ndarray
    complete: bool = True

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Look up values; those outside the table get its first or last entry.

        Parameters
        ----------
        values : any shape, float64

        Returns
        -------
        same shape, float64
        """
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        found: np.ndarray = self.entries[index.astype(np.intp)].astype(np.float64)
        return found


def read_lookup_table(item: Dataset, *, signed: bool, little_endian: bool) -> LookupTable | None:
    """Read one item of a Modality LUT Sequence or VOI LUT Sequence.

    Parameters
    ----------
    item : holds LUT Descriptor and LUT Data
    signed : the inputs are signed, so the first mapped value is signed too
    little_endian : byte order of LUT Data, if it is a string of bytes

    Returns
    -------
    None if the item holds no usable table

    References
    ----------
    PS3.3 C.11.1.1.1, C.11.2.1.1 (0 entries mean 65536; two 8-bit entries may share a word)
    """
    descriptor = numbers(item, "LUTDescriptor")
    data = words(item, "LUTData", little_endian)
    if len(descriptor) != 3 or not np.isfinite(descriptor).all():
        return None
    count, first, bits = (int(value) for value in descriptor)
    count = count & 0xFFFF or 65536  # always unsigned, even if the VR is SS because of the second value
    if bits <= 8 and len(data) < count:
        data = data.astype("<u2").view(np.uint8).astype(np.uint16)
    if not len(data):
        return None
    if signed and first > 0x7FFF:
        first -= 0x10000
    return LookupTable(first, data[:count], complete=len(data) >= count)
