"""De-identification by PS3.15 Annex E: pure functions from a data set to a clean file, and a check of it.

identity -> who it is about     table, profile -> which action     actions, sweep -> elements
stream -> pixels                keys -> what replaces values       verify -> is it clean?
"""

from __future__ import annotations

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
from app.dicom.deidentify.identity import known_identifiers, subject_of
from app.dicom.deidentify.kinds import held_back
from app.dicom.deidentify.profile import BASIC, OPTIONS, Profile
from app.dicom.deidentify.stream import clean_frames, clean_native
from app.dicom.deidentify.sweep import Known
from app.dicom.metadata.values import turned
from app.dicom.pixels.attributes import text
from app.dicom.pixels.fragments import read_fragments
from app.dicom.pixels.frame_bytes import EXPLICIT_LITTLE, frame_layout
from app.dicom.pixels.frames import NATIVE
from app.dicom.pixels.image_header import ImageHeader, pixel_keyword, read_header
from app.dicom.pixels.pixel_bytes import PixelBytes, has_fragments
from app.dicom.read.byte_reader import Source
from app.dicom.read.charset import Charset
from app.dicom.read.dataset import ObjectDataset, text_of
from app.dicom.read.nesting import Node
from app.dicom.read.vr import PIXELS, SEQUENCE_END, UNDEFINED
from app.dicom.write.elements import element, head, settled_vr
from app.dicom.write.explicit import cell_bytes
from app.model.errors import CannotDeidentify, Unrenderable
from app.model.keys import Keys
from app.model.names import IMPLEMENTATION_UID
from app.model.options import DEFAULT_LIMITS, DatasetLimits

BURNED_IN_ANNOTATION = 0x00280301
FRAGMENTS_END = struct.pack("<HHI", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)


@dataclass(frozen=True, slots=True)
class CleanPixels:
    """Pixel data whose burned-in text was looked for, as they will be written.

    elements: tag -> VR and value of the pixel data and what describes them; a value of fragments lacks its
    delimiter. Empty where no text was found, so that the frames stay as they are encoded.
    """

    transfer_syntax: str = ""
    elements: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)


PixelCleaner = Callable[[ObjectDataset, DatasetLimits], CleanPixels]
"""Looks for burned-in text and masks it; raises CannotDeidentify where some is left."""


@dataclass(frozen=True, slots=True)
class CleanObject:
    """A clean file. known: what must not be found in it. counts: how often each action was applied."""

    data: bytes
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

    Nothing of the input is copied unless a rule says so: not its preamble and file meta information, not
    elements that are unknown or unreadable, not bytes beside the values.

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
    if keyword is not None:
        syntax, pixels = _pixels(dataset, source, limits)
        kept |= pixels
        if "pixels" in profile.options:
            syntax = _without_text(dataset, pixel_cleaner, limits, kept) or syntax
    else:
        syntax = EXPLICIT_LITTLE
    looked = keyword is not None and "pixels" in profile.options
    names = [name for name in OPTIONS if name in profile.options and (name != "pixels" or looked)]
    kept |= stamps(profile, [BASIC, *(OPTIONS[name] for name in names)])
    instance = text_of(dataset, SOP_INSTANCE)
    if "uids" not in profile.options:
        instance = cleaner.replaced_uid(SOP_INSTANCE, instance)
    meta = file_meta(sop_class, instance, syntax, IMPLEMENTATION_UID)
    data = b"".join((meta, *(kept[tag] for tag in sorted(kept))))
    return CleanObject(data, known, dict(cleaner.counts))


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
    dataset: ObjectDataset, cleaner: PixelCleaner | None, limits: DatasetLimits, kept: dict[int, bytes]
) -> str:
    """Replace pixel data in which text was masked, and say that none is burned in; return their syntax."""
    if cleaner is None:
        raise CannotDeidentify("burned-in text cannot be looked for: the option pixels is not installed")
    clean = cleaner(dataset, limits)
    kept[BURNED_IN_ANNOTATION] = element(BURNED_IN_ANNOTATION, "CS", b"NO")
    for tag, (vr, value) in clean.elements.items():
        if tag in PIXELS and clean.transfer_syntax not in NATIVE:
            kept[tag] = head(tag, vr, UNDEFINED) + value + FRAGMENTS_END
        else:
            kept[tag] = element(tag, vr, value)
    return clean.transfer_syntax


def _pixels(dataset: ObjectDataset, source: Source, limits: DatasetLimits) -> tuple[str, dict[int, bytes]]:
    """Return the transfer syntax of the pixel data, and their element without anything but picture."""
    try:
        header = read_header(dataset)
        node = next(
            dataset.nodes[tag] for tag in PIXELS if tag in dataset.nodes and dataset.nodes[tag].length
        )
        if has_fragments(dataset, header.keyword):
            return _encapsulated(dataset, node, limits)
    except Unrenderable as error:
        raise CannotDeidentify(f"the pixel data cannot be read: {error.code}") from None
    return EXPLICIT_LITTLE, {node.tag: _native(dataset, node, header, source)}


def hides_in_pixels(dataset: ObjectDataset, limits: DatasetLimits = DEFAULT_LIMITS) -> bool:
    """Return whether the pixel data hold anything but picture, or cannot be followed."""
    if pixel_keyword(dataset) is None:
        return False
    source = cleaner_source(dataset)
    node = next(dataset.nodes[tag] for tag in PIXELS if tag in dataset.nodes and dataset.nodes[tag].length)
    try:
        _, written = _pixels(dataset, source, limits)
    except CannotDeidentify:
        return True
    return source.value(node.offset, node.length) not in written[node.tag]


def _native(dataset: ObjectDataset, node: Node, header: ImageHeader, source: Source) -> bytes:
    data = source.value(node.offset, node.length)
    vr = settled_vr(node.vr, False)
    if dataset.original_encoding[1] is False:
        size = cell_bytes(dataset) if vr == "OW" else {"OF": 4, "OD": 8}.get(vr, 1)
        data = turned(data[: len(data) - len(data) % size], size)
    return element(node.tag, vr, clean_native(data, header))


def _encapsulated(dataset: ObjectDataset, node: Node, limits: DatasetLimits) -> tuple[str, dict[int, bytes]]:
    layout = frame_layout(dataset, (), limits)
    stream = cast(BinaryIO, dataset.buffer)
    pixels = PixelBytes(layout.size, None, stream, layout.start, layout.words)

    def read(begin: int, end: int) -> bytes:
        return read_fragments(pixels, begin, end, limits)

    value = clean_frames(layout, read, layout.header).value()
    return layout.header.transfer_syntax, {node.tag: head(node.tag, "OB", UNDEFINED) + value + FRAGMENTS_END}


__all__ = [
    "CleanObject",
    "CleanPixels",
    "PixelCleaner",
    "Profile",
    "clean_pixels",
    "deidentify_dataset",
    "hides_in_pixels",
]
