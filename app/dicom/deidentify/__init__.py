"""De-identification by PS3.15 Annex E: pure functions from a data set to a clean file, and a check of it.

identity -> who it is about     table, profile -> which action     actions, sweep -> elements
stream -> pixels                clean_file -> the parts            verify -> is it clean?
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from app.dicom.deidentify.actions import (
    SOP_INSTANCE,
    Cleaner,
    Scope,
    cleaner_source,
    file_meta,
    stamps,
)
from app.dicom.deidentify.clean_file import PIECE, CleanFile, Part, literal
from app.dicom.deidentify.identity import known_identifiers, subject_of
from app.dicom.deidentify.kinds import held_back
from app.dicom.deidentify.profile import BASIC, OPTIONS, Profile
from app.dicom.deidentify.stream import extended_offsets, frame_parts, native_parts
from app.dicom.deidentify.sweep import Known
from app.dicom.pixels.attributes import text
from app.dicom.pixels.frame_bytes import EXPLICIT_LITTLE, frame_layout
from app.dicom.pixels.frames import NATIVE
from app.dicom.pixels.image_header import pixel_keyword, read_header
from app.dicom.pixels.pixel_bytes import PixelBytes, has_fragments
from app.dicom.read.charset import Charset
from app.dicom.read.dataset import ObjectDataset, text_of
from app.dicom.read.vr import PIXELS, SEQUENCE_END, UNDEFINED
from app.dicom.write.elements import element, head, settled_vr
from app.dicom.write.explicit import cell_bytes
from app.model.errors import CannotDeidentify, Unrenderable
from app.model.keys import Keys
from app.model.names import IMPLEMENTATION_UID
from app.model.options import DEFAULT_LIMITS, DatasetLimits
from app.model.range_stream import RangedStream

BURNED_IN_ANNOTATION = 0x00280301
READ_AHEAD = 1 << 20
"""Bytes per read, so that small frames share one."""
FRAGMENTS_END = struct.pack("<HHI", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)


@dataclass(frozen=True, slots=True)
class CleanPixels:
    """Pixel data whose burned-in text was looked for, as they will be written.

    elements: tag -> VR and value of the pixel data and of the attributes that describe them; a value of
    fragments lacks its delimiter. Empty if no text was found, so that the frames keep their encoding.
    """

    transfer_syntax: str = ""
    elements: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)


PixelCleaner = Callable[[ObjectDataset, DatasetLimits], CleanPixels]
"""Looks for burned-in text and masks it; raises CannotDeidentify if some is left."""


@dataclass(frozen=True, slots=True)
class CleanObject:
    """A clean file. known: what must not be found in it. counts: how often each action was applied."""

    file: CleanFile
    known: Known
    counts: Mapping[str, int]


def deidentify_dataset(
    dataset: ObjectDataset,
    profile: Profile,
    keys: Keys,
    limits: DatasetLimits = DEFAULT_LIMITS,
    pixel_cleaner: PixelCleaner | None = None,
) -> CleanObject:
    """Return a data set as a clean file in Explicit VR Little Endian; compressed frames keep their encoding.

    Only what a rule keeps is copied: neither preamble and file meta information, nor unknown or unreadable
    elements, nor bytes outside of values.

    Parameters
    ----------
    dataset : as read, in any transfer syntax
    profile, keys : what to do, and with which secret
    limits : on frames and fragments
    pixel_cleaner : what the option `pixels` uses; without it an object with pixel data is refused

    Raises
    ------
    CannotDeidentify : it is of a kind that no rule makes clean, or its pixel data cannot be followed

    References
    ----------
    PS3.15 Annex E, PS3.10 7
    """
    sop_class, burned_in = text(dataset, "SOPClassUID"), text(dataset, "BurnedInAnnotation")
    keyword = pixel_keyword(dataset)
    syntax = text(dataset.file_meta, "TransferSyntaxUID") if dataset.file_meta else ""
    if reason := held_back(sop_class, syntax, burned_in, profile):
        raise CannotDeidentify(reason)
    source = cleaner_source(dataset)
    nodes = [node for tag, node in dataset.nodes.items() if tag >> 16 != 2]
    known = known_identifiers(source, nodes, profile)
    cleaner = Cleaner(source, profile, keys, known, subject_of(source, dataset.nodes), sop_class)
    little = dataset.original_encoding[1] is not False
    scope = Scope(0, little, False, Charset(), b"")
    kept = dict(cleaner.elements(nodes, scope))
    pixels: dict[int, list[Part]] = {}
    if keyword is not None:
        syntax, pixels = _pixels(dataset, limits)
        if "pixels" in profile.options:
            syntax = _without_text(dataset, pixel_cleaner, limits, kept, pixels) or syntax
    else:
        syntax = EXPLICIT_LITTLE
    looked = keyword is not None and "pixels" in profile.options
    names = [name for name in OPTIONS if name in profile.options and (name != "pixels" or looked)]
    kept |= stamps(profile, [BASIC, *(OPTIONS[name] for name in names)])
    instance = text_of(dataset, SOP_INSTANCE)
    if "uids" not in profile.options:
        instance = cleaner.replaced_uid(SOP_INSTANCE, instance)
    meta = file_meta(sop_class, instance, syntax, IMPLEMENTATION_UID)
    elements = {**{tag: [literal(data)] for tag, data in kept.items()}, **pixels}
    parts = [literal(meta), *(part for tag in sorted(elements) for part in elements[tag])]
    return CleanObject(CleanFile(parts), known, dict(cleaner.counts))


def clean_pixels(dataset: ObjectDataset, limits: DatasetLimits) -> CleanPixels:
    """Look for burned-in text and mask it.

    Raises
    ------
    CannotDeidentify : text is still there after all, or the frames cannot be looked at
    ConfigError : the extra `pixels` is not installed

    References
    ----------
    PS3.15 E.3.1 (Clean Pixel Data Option)
    """
    from app.dicom.deidentify import pixels  # late: it loads a library of 100 MB

    try:
        frames = pixels.read_frames(dataset, limits)
        clean = pixels.clean_frames(frames.pixels, dataset, photometric=frames.photometric)
    except Unrenderable as error:
        raise CannotDeidentify(f"burned-in text cannot be looked for: {error.code}") from None
    if clean.residual:
        raise CannotDeidentify("text is still burned in where it was masked")
    if not clean.boxes:
        return CleanPixels()
    encoded = pixels.encode(dataset, pixels.Frames(clean.frames, frames.photometric))
    return CleanPixels(encoded.transfer_syntax, encoded.elements)


def _without_text(
    dataset: ObjectDataset,
    cleaner: PixelCleaner | None,
    limits: DatasetLimits,
    kept: dict[int, bytes],
    pixels: dict[int, list[Part]],
) -> str:
    """Replace pixel data in which text was masked, and record that none is burned in; return their syntax."""
    if cleaner is None:
        raise CannotDeidentify("burned-in text cannot be looked for: the option pixels is not installed")
    clean = cleaner(dataset, limits)
    kept[BURNED_IN_ANNOTATION] = element(BURNED_IN_ANNOTATION, "CS", b"NO")
    if clean.elements:
        pixels.clear()
    for tag, (vr, value) in clean.elements.items():
        if tag in PIXELS and clean.transfer_syntax not in NATIVE:
            kept[tag] = head(tag, vr, UNDEFINED) + value + FRAGMENTS_END
        else:
            kept[tag] = element(tag, vr, value)
    return clean.transfer_syntax


def _pixels(dataset: ObjectDataset, limits: DatasetLimits) -> tuple[str, dict[int, list[Part]]]:
    """Return the transfer syntax of the pixel data, and their elements with nothing but the picture."""
    try:
        header = read_header(dataset)
        node = next(
            dataset.nodes[tag] for tag in PIXELS if tag in dataset.nodes and dataset.nodes[tag].length
        )
        value = PixelBytes(node.length, None, _read_ahead(dataset), node.offset)
        if not has_fragments(dataset, header.keyword):
            vr = settled_vr(node.vr, False)
            parts = list(native_parts(value, header, _word(dataset, vr)))
            length = sum(part.length for part in parts)
            return EXPLICIT_LITTLE, {node.tag: [literal(head(node.tag, vr, length)), *parts]}
        layout = frame_layout(dataset, (), limits)
        parts, lengths = frame_parts(layout, value, limits)
    except Unrenderable as error:
        raise CannotDeidentify(f"the pixel data cannot be read: {error.code}") from None
    begin, end = literal(head(node.tag, "OB", UNDEFINED)), literal(FRAGMENTS_END)
    tables = {tag: [literal(data)] for tag, data in extended_offsets(lengths).items()}
    return layout.header.transfer_syntax, {**tables, node.tag: [begin, *parts, end]}


def hides_in_pixels(dataset: ObjectDataset, limits: DatasetLimits = DEFAULT_LIMITS) -> bool:
    """Return whether the pixel data contain anything but the picture, or cannot be parsed."""
    if pixel_keyword(dataset) is None:
        return False
    node = next(dataset.nodes[tag] for tag in PIXELS if tag in dataset.nodes and dataset.nodes[tag].length)
    try:
        _, written = _pixels(dataset, limits)
    except CannotDeidentify:
        return True
    stream, position = _read_ahead(dataset), node.offset
    for part in written[node.tag][1:]:  # without its header, which may have another VR
        if [(span.offset, span.length) for span in part.spans] != [(position, part.length)]:
            stream.seek(position)
            if stream.read(part.length) != part.make():
                return position != node.offset + node.length  # else it is the delimiter
        position += part.length
    return position < node.offset + node.length


def _read_ahead(dataset: ObjectDataset) -> BinaryIO:
    """Return the stream of a data set for reading it from one end to the other, in few ranges."""
    stream = cast(BinaryIO, dataset.buffer)

    def read(position: int, count: int) -> bytes:
        stream.seek(position)
        return stream.read(count)

    return io.BufferedReader(RangedStream(read, stream.seek(0, 2), PIECE), READ_AHEAD)


def _word(dataset: ObjectDataset, vr: str) -> int:
    """Return the word size of native pixel data whose bytes must be swapped, 1 in little endian."""
    if dataset.original_encoding[1] is not False:
        return 1
    return cell_bytes(dataset) if vr == "OW" else {"OF": 4, "OD": 8}.get(vr, 1)


__all__ = [
    "CleanObject",
    "CleanPixels",
    "PixelCleaner",
    "Profile",
    "clean_pixels",
    "deidentify_dataset",
    "hides_in_pixels",
]
